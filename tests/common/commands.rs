//! Commands of the program, and what is expected of every one of them.

use serde_json::Value;

use super::Ran;

/// Whoever runs `xosfs ARGS…` for a test.
pub trait Commands {
    fn run(&self, args: &[&str]) -> Ran;

    /// Succeeds in silence on standard error; what it printed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{args:?}: {ran:?}");
        ran.out
    }

    /// Fails with one line on standard error, which it returns.
    #[track_caller]
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!((ran.code, &*ran.out), (Some(code), ""), "{args:?}: {ran:?}");
        assert!(ran.err.starts_with("xosfs: ") && ran.err.lines().count() == 1, "{args:?}: {ran:?}");
        ran.err.trim_end()["xosfs: ".len()..].to_owned()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// One object a line.
    #[track_caller]
    fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        self.ok(args).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}
