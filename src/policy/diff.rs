//! What changes from one document to the next, line by line.

use serde_json::Value;

/// More lines than this on both sides are shown whole: policies have a few hundred.
const LINES_MAX: usize = 4000;

/// Lines that begin with ` `, `-` or `+`; empty when nothing changes. Documents are compared by what they say, not by
/// their spacing and order of members.
pub fn documents(old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
    let text = |v: Option<&Value>| v.map_or(String::new(), |v| serde_json::to_string_pretty(v).unwrap_or_default());
    lines(&text(old), &text(new))
}

/// The same for texts.
pub fn lines(old: &str, new: &str) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    if a.len() > LINES_MAX || b.len() > LINES_MAX {
        let gone = a.iter().map(|l| format!("-{l}"));
        return gone.chain(b.iter().map(|l| format!("+{l}"))).collect();
    }
    // Length of the longest common part of what follows.
    let width = b.len() + 1;
    let mut common = vec![0u16; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push(format!(" {}", a[i]));
            i += 1;
            j += 1;
        } else if j == b.len() || i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1] {
            out.push(format!("-{}", a[i]));
            i += 1;
        } else {
            out.push(format!("+{}", b[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_marked() {
        assert_eq!(lines("a\nb\nc", "a\nx\nc"), [" a", "-b", "+x", " c"]);
        assert_eq!(lines("", "a"), ["+a"]);
        assert_eq!(lines("a\nb", "b"), ["-a", " b"]);
        assert!(lines("a", "a").is_empty());
    }

    // POL-GEN-05
    #[test]
    fn order_of_members_is_no_change() {
        let old: Value = serde_json::from_str(r#"{"b": 1, "a": [2]}"#).unwrap();
        let new: Value = serde_json::from_str(r#"{"a":[2],"b":1}"#).unwrap();
        assert!(documents(Some(&old), Some(&new)).is_empty());
        assert!(documents(Some(&old), None).iter().all(|l| l.starts_with('-')));
        assert!(!documents(None, Some(&new)).is_empty());
    }
}
