//! Keys that other tools make.

use serde_json::json;

use super::common::TestMount;
use super::common::commands::Commands;
use super::{Place, decoded, encoded};

/// Names that a mount shows as they are.
const ODD: [&str; 16] = [
    "sp ace",
    "plus+",
    "per%cent",
    "%2F",
    "?#&=;",
    "back\\slash",
    "q<>&\"'",
    "é漢😀",
    "e\u{301}",
    "*:|",
    "~!@$^`[]{}(),",
    "trailing ",
    " leading",
    "a",
    "tab\there",
    "new\nline",
];

#[test]
fn odd_names_of_either_are_listed_and_read_by_the_other() {
    let mut place = Place::new();
    for name in ODD {
        place.object("put_object", &format!("boto/{name}/{name}"), json!({"Body": encoded(name)}));
    }
    // No names of files: a mount shows them under others, the command line as they are.
    for key in ["no//path", "/abs", "boto/empty/"] {
        place.object("put_object", key, json!({"Body": encoded("")}));
    }
    let mount = TestMount::new(&place.server);
    for name in ODD {
        let path = mount.join("boto").join(name).join(name);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), name, "{name:?}");
        std::fs::create_dir_all(mount.join("mount").join(name)).unwrap();
        std::fs::write(mount.join("mount").join(name).join(name), name).unwrap();
    }
    let mut names: Vec<_> = std::fs::read_dir(mount.join("boto"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n != "empty")
        .collect();
    names.sort();
    let mut expected = ODD.to_vec();
    expected.sort_unstable();
    assert_eq!(names, expected);
    mount.umount();

    let mut keys: Vec<String> = ODD.iter().map(|n| format!("mount/{n}/{n}")).collect();
    keys.sort();
    let found = place.of_bucket("list_objects_v2", json!({"Prefix": "mount/"}));
    let found = found["Contents"].as_array().unwrap().iter().map(|o| o["Key"].as_str().unwrap());
    // Markers of the directories that the mount made.
    assert_eq!(found.filter(|k| !k.ends_with('/')).collect::<Vec<_>>(), keys);
    for name in ODD {
        let got = place.object("get_object", &format!("mount/{name}/{name}"), json!({}));
        assert_eq!(decoded(&got["Body"]), name.as_bytes(), "{name:?}");
    }
    let lines = place.json_lines(&["ls", "-r", "--json", &place.uri("")]);
    let shown: Vec<_> = lines.iter().map(|l| l["key"].as_str().unwrap().to_owned()).collect();
    let mut listed: Vec<String> = Vec::new();
    for page in ["list_objects", "list_objects_v2"] {
        let found = place.of_bucket(page, json!({}));
        listed = found["Contents"].as_array().unwrap().iter().map(|o| o["Key"].as_str().unwrap().to_owned()).collect();
        assert_eq!(shown, listed, "{page}");
    }
    // Deletes by name reach the same objects.
    let (by_xosfs, by_boto): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|k| k.starts_with("boto/") && !k.ends_with('/'));
    for key in &by_xosfs {
        place.ok(&["rm", &place.uri(key)]);
    }
    assert_eq!(by_xosfs.len(), ODD.len());
    let left: Vec<_> = by_boto.iter().map(|k| json!({"Key": k})).collect();
    let gone = place.of_bucket("delete_objects", json!({"Delete": {"Objects": left, "Quiet": true}}));
    assert!(gone.get("Errors").is_none_or(|e| e == &json!([])), "{gone}");
    assert_eq!(place.ok(&["ls", "-r", &place.uri("")]), "");
}
