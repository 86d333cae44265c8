//! Indices that another root has just made, before this root's view shows them.
//!
//! A client that creates an index through one root and asks another must not hear that there is none.
//! So before a name counts as missing it is looked up in the store, and when it is there the view is
//! waited for. How many look at a time is bounded; the others go by the view.

use std::time::Duration;

use tokio::sync::Semaphore;
use trawl_cluster::catalog::keys;
use trawl_cluster::view::View;

use crate::catalog::check_name;
use crate::root::Root;

/// Names looked up at the same time.
const LOOKUPS_MAX: usize = 32;
/// Names of one request that are looked up.
const NAMES_MAX: usize = 16;
/// How long looking and waiting may take.
const TIME_MAX: Duration = Duration::from_secs(1);

/// Bounds the lookups.
#[derive(Debug)]
pub struct Newcomers(Semaphore);

impl Default for Newcomers {
    fn default() -> Self {
        Self(Semaphore::new(LOOKUPS_MAX))
    }
}

/// Returns when the view shows every index that an expression names and that the store has.
pub(crate) async fn wait(root: &Root, expression: &str) {
    let missing = missing(&root.viewer.view(), expression);
    if missing.is_empty() {
        return;
    }
    let Ok(_permit) = root.newcomers.0.try_acquire() else { return };
    let look = async {
        for name in missing {
            // While the engine is out of reach the view is all there is.
            if root.store_gate.enter(TIME_MAX).is_err() {
                return;
            }
            let found = root.engine.store.get(&keys::index(name)).await.map_err(crate::error::Error::from);
            root.store_gate.note(&found);
            if let Ok(Some(entry)) = found {
                root.viewer.at_least(entry.revision, TIME_MAX).await;
            }
        }
    };
    let _ = tokio::time::timeout(TIME_MAX, look).await;
}

/// Names that could be indices and are not in the view.
fn missing<'a>(view: &View, expression: &'a str) -> Vec<&'a str> {
    let names = expression.split(',').map(str::trim);
    let names = names.filter(|name| check_name(name).is_ok() && !view.indices.contains_key(*name));
    names.take(NAMES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_could_be_indices_are_looked_up() {
        let view = View::default();
        assert_eq!(missing(&view, "books, _all,x*,-y,,Z,other"), ["books", "other"]);
        assert_eq!(missing(&view, &"a,".repeat(100)).len(), NAMES_MAX);
    }
}
