//! Kubernetes' container runtime interface: `TIME stdout|stderr P|F CONTENT` around whatever the container wrote.

use super::time;

/// What the runtime added to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapped<'a> {
    /// When the runtime read it.
    pub time_ns: i64,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// The line goes on in the next one.
    pub partial: bool,
    /// What the container wrote.
    pub content: &'a str,
}

/// Takes the wrapping off; `None` for a line that has none.
pub fn unwrap(line: &str) -> Option<Wrapped<'_>> {
    let (stamp, rest) = line.split_once(' ')?;
    let (stream, rest) = rest.split_once(' ')?;
    let stream = match stream {
        "stdout" => "stdout",
        "stderr" => "stderr",
        _ => return None,
    };
    let (tags, content) = rest.split_once(' ').unwrap_or((rest, ""));
    let partial = match tags.split(':').next() {
        Some("P") => true,
        Some("F") => false,
        _ => return None,
    };
    Some(Wrapped { time_ns: time::whole(stamp)?, stream, partial, content })
}

/// Attributes of the resource that the name of the file tells: `POD_NAMESPACE_CONTAINER-ID.log`, as kubelet links them.
pub fn resource_of(file: &str) -> Vec<(String, String)> {
    let Some(name) = file.strip_suffix(".log") else { return Vec::new() };
    let mut parts = name.splitn(3, '_');
    let (Some(pod), Some(namespace), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let Some((container, id)) = rest.rsplit_once('-') else { return Vec::new() };
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Vec::new();
    }
    [("k8s.pod.name", pod), ("k8s.namespace.name", namespace), ("k8s.container.name", container), ("container.id", id)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_containerd() {
        let line = "2016-10-06T00:17:09.669794202Z stdout P log content 1";
        let wrapped = unwrap(line).unwrap();
        assert_eq!((wrapped.stream, wrapped.partial, wrapped.content), ("stdout", true, "log content 1"));
        assert_eq!(wrapped.time_ns, 1_475_713_029_669_794_202);
        assert_eq!(unwrap("2016-10-06T00:17:10.113242941Z stderr F ").unwrap().content, "");
        assert_eq!(unwrap("2016-10-06T00:17:10.113242941Z stderr F").unwrap().content, "");
        assert_eq!(unwrap("2016-10-06T00:17:10.113242941Z stdlog F x"), None);
        assert_eq!(unwrap("x stdout F y"), None);
    }

    #[test]
    fn names_of_kubelet_tell_the_pod() {
        let id = "a".repeat(64);
        let found = resource_of(&format!("trawl-leaf-0_search_leaf-{id}.log"));
        assert_eq!(found[0], ("k8s.pod.name".to_owned(), "trawl-leaf-0".to_owned()));
        assert_eq!(found[2].1, "leaf");
        assert!(resource_of("app_x_y.log").is_empty());
    }
}
