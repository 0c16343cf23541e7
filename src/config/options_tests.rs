use super::*;

fn none(_: &str) -> Option<String> {
    None
}

fn load(text: &str) -> Result<Options, String> {
    Options::load(&[text.to_owned()], false, &none).map_err(|e| e.0)
}

#[test]
fn defaults_of_the_table_are_what_a_bare_mount_has() {
    for spec in TABLE {
        if !spec.default.is_empty() {
            (spec.set)(&mut Options::default(), spec.default).unwrap_or_else(|e| panic!("{}: {e}", spec.name));
        }
        assert!(spec.doc.ends_with('.'), "{}", spec.name);
    }
    let o = load("").unwrap();
    assert_eq!(o, Options::default());
    assert_eq!((o.metadata_ttl, o.negative_ttl), (Duration::from_secs(5), Duration::from_secs(1)));
    assert_eq!((o.part_size, o.stream_after, o.capacity), (8 << 20, 64 << 20, 1 << 50));
    assert_eq!((o.file_bits(), o.dir_bits()), (0o644, 0o755));
    assert_eq!(o.patience(), Duration::ZERO);
    assert!(o.memory_bytes() <= 512 << 20);
}

/// Every option is known by its name and changes something.
#[test]
fn every_option_has_an_effect() {
    let other = |spec: &Spec| match spec.name {
        "endpoint" | "sts_endpoint" => "http://h:1",
        "role_policy" => "read-only",
        "xattr_list" => "all",
        "versions" => "dir",
        "role_duration" => "30m",
        "uid" | "gid" => "4242",
        "file_mode" | "dir_mode" | "umask" => "0700",
        "tags" => "a=b",
        "content_type" => "text/x-odd",
        "acl" => "public-read",
        "attrs" => "ignore",
        "passthrough" => "off",
        "checksum" => "md5",
        "on_conflict" => "fail",
        "addressing" => "path",
        "provider" => "ceph",
        "signature" => "v2",
        "list" => "v1",
        "log" => "/x/y",
        "log_level" => "trace",
        "max_uploads" | "retries" => "3",
        "metrics" => "127.0.0.1:9464",
        "connect_timeout" => "7s",
        "allow_other" | "default_permissions" => "false",
        _ => match spec.value {
            "" => "true",
            "SIZE" | "SIZE|auto" => "99M",
            "DURATION" => "77s",
            "DIR" => "/x/y",
            "TIME" => "2020-01-01T00:00:00Z",
            _ => "WORD",
        },
    };
    for spec in TABLE {
        let changed = load(&format!("{}={}", spec.name, other(spec))).unwrap_or_else(|e| panic!("{e}"));
        assert_ne!(changed, Options::default(), "{}", spec.name);
    }
}

#[test]
fn lists_have_escapes_and_quotes() {
    let o = load(r#"tags=a=1\,2&b=x,context="system_u:object_r:t:s0:c1,c2",ro,content_type=text/plain; charset=utf-8"#)
        .unwrap();
    assert_eq!(o.tags, [("a".into(), "1,2".into()), ("b".into(), "x".into())]);
    assert_eq!(o.flags.labels, ["context=system_u:object_r:t:s0:c1,c2"]);
    assert_eq!(o.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert!(o.read_only);
    assert!(load("context=\"a").unwrap_err().contains("partner"));
    assert!(load("ro\\").unwrap_err().contains("escapes nothing"));
}

#[test]
fn what_fstab_and_systemd_write_is_accepted() {
    let o = load(
        "rw,_netdev,nofail,auto,noauto,user,users,owner,group,nouser,defaults,x-systemd.automount,x-gvfs-show,X-mount.mkdir=0755,\
         comment=hello,allow_other,endpoint=http://h,nosuid,nodev,noexec,noatime,relatime,nodiratime,sync,dirsync",
    )
    .unwrap();
    assert_eq!(o.patience(), Duration::from_secs(60));
    assert!(o.flags.noexec && o.flags.noatime && o.flags.sync && !o.flags.suid && !o.read_only);
    assert_eq!(load("_netdev,mount_timeout=3s").unwrap().patience(), Duration::from_secs(3));
    assert!(load("ro,rw").is_ok_and(|o| !o.read_only));
}

#[test]
fn unknown_options_suggest_the_right_one() {
    for (text, hint) in [
        ("endpont=http://h", "`endpoint`"),
        ("allow_oter", "`allow_other`"),
        ("url=http://h", "`endpoint`"),
        ("use_path_request_style", "`addressing=path`"),
        ("metadata-tll=1", "`metadata_ttl`"),
        ("zzzzzzzz", "--help"),
        ("rw=1", "--help"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.contains("unknown option") && error.contains(hint), "{text}: {error}");
    }
    assert!(Options::load(&["zzz,ro".into()], true, &none).unwrap().read_only);
    assert_eq!(load("metadata-ttl=1").unwrap().metadata_ttl, Duration::from_secs(1));
}

/// XOS-INI-07: never on the command line, never repeated.
#[test]
fn keys_are_refused_and_not_repeated() {
    for name in
        ["secret_key", "aws_secret_access_key", "aws_access_key_id", "session_token", "passwd_file", "sk", "PASSWORD"]
    {
        let error = load(&format!("{name}=hunter2hunter2")).unwrap_err();
        assert!(error.contains("is not an option") && error.contains("profile="), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let sloppy = Options::load(&[format!("{name}=hunter2")], true, &none);
        assert!(sloppy.is_err());
    }
    assert!(!load("unknwn=hunter2").unwrap_err().contains("hunter2"));
}

#[test]
fn impossible_values_name_the_option() {
    for (text, parts) in [
        ("endpoint=host", ["`endpoint`", "http://"]),
        ("endpoint", ["`endpoint`", "needs a value"]),
        ("part_size=1M", ["`part_size`", "5M to 5G"]),
        ("part_size=1G,memory=64M", ["`part_size`", "raise `memory`"]),
        ("memory=1", ["`memory`", "64M to"]),
        ("memory=63M", ["`memory`", "64M to"]),
        ("metadata_ttl=soon", ["`metadata_ttl`", "5s"]),
        ("max_uploads=0", ["`max_uploads`", "1 to 256"]),
        ("uid=no-such-user", ["`uid`", "no user"]),
        ("file_mode=9", ["`file_mode`", "octal"]),
        ("addressing=host", ["`addressing`", "auto, path, virtual"]),
        ("acl=everybody", ["`acl`", "public-read"]),
        ("log=nowhere", ["`log`", "journald"]),
        ("ro=maybe", ["`ro`", "neither true nor false"]),
        ("anonymous,profile=p", ["`anonymous`", "profile"]),
        ("op_timeout=1s,connect_timeout=2s", ["`op_timeout`", "connect_timeout"]),
        ("config=/no/such/file", ["/no/such/file", "`config`"]),
        ("config", ["config", "FILE"]),
    ] {
        let error = load(text).unwrap_err();
        assert!(parts.iter().all(|p| error.contains(p)), "{text}: {error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn the_later_source_wins() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c");
    std::fs::write(&file, "# a comment\n\nregion = file\nmemory = \"1G\"\nro\npart-size=16M\n").unwrap();
    let env = |name: &str| match name {
        "AWS_ENDPOINT_URL" => Some("http://env".into()),
        "AWS_REGION" => Some("env".into()),
        "AWS_PROFILE" => Some("p".into()),
        _ => None,
    };
    let load = |list: String| Options::load(&[list], false, &env);
    let o = load(String::new()).unwrap();
    assert_eq!(
        (o.endpoint.as_deref(), o.region.as_deref(), o.profile.as_deref()),
        (Some("http://env"), Some("env"), Some("p"))
    );
    let o = load(format!("rw,config={},endpoint=http://o", file.display())).unwrap();
    assert_eq!((o.endpoint.as_deref(), o.region.as_deref()), (Some("http://o"), Some("file")));
    assert_eq!((o.memory, o.read_only, o.part_size), (Some(1 << 30), false, 16 << 20));
    std::fs::write(&file, "ro\nsecret_key = hunter2\n").unwrap();
    let error = load(format!("config={}", file.display())).unwrap_err().0;
    assert!(error.contains(":2: `secret_key` is not an option") && !error.contains("hunter2"), "{error}");
    let bad = |name: &str| (name == "AWS_ENDPOINT_URL_S3").then(|| "host:1".into());
    assert!(Options::load(&[], false, &bad).unwrap_err().0.contains("AWS_ENDPOINT_URL_S3"));
}

#[test]
fn umask_and_modes_add_up() {
    let bits = |text: &str| load(text).map(|o| (o.file_bits(), o.dir_bits())).unwrap();
    assert_eq!(bits("umask=077"), (0o600, 0o700));
    assert_eq!(bits("file_mode=0664"), (0o664, 0o755));
    assert_eq!(bits("file_mode=0666,dir_mode=0777,umask=027"), (0o640, 0o750));
}

proptest::proptest! {
    #[test]
    fn splitting_gives_back_what_was_escaped(items in proptest::collection::vec("[a-z=,\\\\\"é ]{1,8}", 1..6)) {
        let escaped: Vec<String> = items
            .iter()
            .map(|i| i.chars().flat_map(|c| matches!(c, ',' | '\\' | '"').then_some('\\').into_iter().chain([c])).collect())
            .collect();
        proptest::prop_assert_eq!(split(&escaped.join(",")).unwrap(), items);
    }
}
