//! The best `limit` of many, under any order.

use std::cmp::Ordering;

/// A heap with the worst entry on top. The order is given with each call, since comparing may need to
/// look something up; `Less` ranks first.
pub struct Top<T> {
    limit: usize,
    entries: Vec<T>,
}

impl<T> Top<T> {
    /// Keeps the best `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit, entries: Vec::new() }
    }

    /// The worst entry, once `limit` are kept: nothing that ranks behind it is of interest.
    pub fn worst(&self) -> Option<&T> {
        self.entries.first().filter(|_| self.entries.len() >= self.limit)
    }

    /// Keeps `entry` if it is among the best.
    pub fn offer(&mut self, entry: T, order: impl Fn(&T, &T) -> Ordering) {
        if self.limit == 0 {
            return;
        }
        if self.entries.len() < self.limit {
            self.entries.push(entry);
            self.rise(self.entries.len() - 1, &order);
        } else if let Some(worst) = self.entries.first_mut()
            && order(&entry, worst) == Ordering::Less
        {
            *worst = entry;
            self.sink(&order);
        }
    }

    /// The entries, best first.
    pub fn into_sorted(mut self, order: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
        self.entries.sort_by(order);
        self.entries
    }

    fn is_worse(&self, a: usize, b: usize, order: &impl Fn(&T, &T) -> Ordering) -> bool {
        match (self.entries.get(a), self.entries.get(b)) {
            (Some(a), Some(b)) => order(a, b) == Ordering::Greater,
            _ => false,
        }
    }

    fn rise(&mut self, mut at: usize, order: &impl Fn(&T, &T) -> Ordering) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.is_worse(at, parent, order) {
                return;
            }
            self.entries.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self, order: &impl Fn(&T, &T) -> Ordering) {
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child = if self.is_worse(right, left, order) { right } else { left };
            if !self.is_worse(child, at, order) {
                return;
            }
            self.entries.swap(at, child);
            at = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_best_are_kept_in_order(values in prop::collection::vec(0u32..50, 0..60), limit in 0usize..12) {
            let mut top = Top::new(limit);
            for value in &values {
                top.offer(*value, u32::cmp);
                let mut seen = values.clone();
                seen.sort_unstable();
                prop_assert!(top.worst().is_none_or(|worst| *worst >= seen.get(limit.saturating_sub(1)).copied().unwrap_or(0)));
            }
            let mut expected = values;
            expected.sort_unstable();
            expected.truncate(limit);
            prop_assert_eq!(top.into_sorted(u32::cmp), expected);
        }
    }
}
