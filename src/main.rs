//! The program `xosfs`, also installed as `mount.fuse.xosfs`: see [`xosfs::cli`].

fn main() -> std::process::ExitCode {
    xosfs::cli::main(std::env::args_os().collect())
}
