//! `xosfs ls`, `stat`, `rm` and `uploads`.

use xosfs::demo::{Action, Rule};

use super::Place;
use super::common::commands::Commands;

// XOS-BKT-02, XOS-OBJ-01
#[test]
fn buckets_and_objects_are_listed() {
    let place = Place::new();
    for key in ["a", "dir/b", "dir/sub/c", "dir-x", "z\u{1b}[2J"] {
        place.put(key, "12345");
    }
    assert_eq!(place.json_lines(&["ls", "--json"])[0]["name"], "bucket");
    assert!(place.ok(&["ls"]).trim_end().ends_with(" bucket"));
    let out = place.ok(&["ls", "s3://bucket"]);
    let names: Vec<_> = out.lines().map(|l| l[37..].to_owned()).collect();
    assert_eq!(names, ["a", "dir-x", "dir/", "z\\u{1b}[2J"], "{out}");
    assert!(out.lines().next().unwrap().contains("             5  a"));
    // A directory without its slash; a name is not the beginning of another.
    assert_eq!(place.keys("dir"), ["dir/b", "dir/sub/c"]);
    assert_eq!(place.ok(&["ls", "s3://bucket/dir/"]).lines().count(), 2);
    assert_eq!(place.keys("a"), ["a"]);
    let out = place.ok(&["ls", "-r", "--summarize", "-H", "s3://bucket/dir"]);
    assert!(out.ends_with("2 objects, 10 bytes\n"), "{out}");
    assert_eq!(place.json_lines(&["ls", "-r", "--json", "--limit", "3", "s3://bucket"]).len(), 3);
    assert_eq!(place.fails(1, &["ls", "s3://bucket/none"]), "nothing is stored at s3://bucket/none or below it");
    assert_eq!(place.fails(1, &["ls", "s3://bucket/none/"]), "nothing is stored below s3://bucket/none/");
}

// XOS-OBJ-02
#[test]
fn long_listings_go_page_by_page() {
    let place = Place::new();
    for i in 0..25 {
        place.put(&format!("p/{i:02}"), "");
    }
    place.server.knobs().set(|b| b.page_size = Some(10));
    place.clear();
    assert_eq!(place.keys("p/").len(), 25);
    assert_eq!(place.count("ListObjects") + place.count("ListObjectsV2"), 3, "{:?}", place.server.counts());
}

// XOS-OBJ-19, XOS-BKT-03
#[test]
fn stat_tells_what_is_known() {
    let place = Place::new();
    place.put("k.txt", "12345");
    let out = place.ok(&["stat", "s3://bucket/k.txt"]);
    for part in [
        "uri:          s3://bucket/k.txt\n",
        "size:         5\n",
        "class:        STANDARD\n",
        "content-type: text/plain\n",
    ] {
        assert!(out.contains(part), "{out}");
    }
    assert_eq!(place.json(&["stat", "--json", "s3://bucket"])["uri"], "s3://bucket");
    assert!(place.fails(1, &["stat", "s3://bucket/none"]).starts_with("head object key=\"none\""));
    assert!(place.fails(1, &["stat", "s3://missing"]).contains("\"missing\""));
}

// XOS-OBJ-15
#[test]
fn rm_deletes_what_is_there() {
    let place = Place::new();
    place.put("a", "1");
    assert_eq!(place.ok(&["rm", "-n", "s3://bucket/a"]), "would delete s3://bucket/a\n1 would be deleted\n");
    assert_eq!(place.ok(&["rm", "s3://bucket/a"]), "");
    let told = place.fails(1, &["rm", "s3://bucket/a"]);
    assert_eq!(told, "s3://bucket/a is not there (rm -r deletes what is below it)");
    assert_eq!(place.ok(&["rm", "-f", "s3://bucket/a"]), "");
}

// XOS-OBJ-16, XOS-OBJ-18
#[test]
fn rm_r_deletes_a_directory_in_batches_and_nothing_beside_it() {
    let place = Place::new();
    for i in 0..25 {
        place.put(&format!("d/{i:02}"), "");
    }
    place.put("d", "file");
    place.put("d2", "beside");
    place.server.knobs().set(|b| b.page_size = Some(10));
    let out = place.ok(&["rm", "-r", "-n", "s3://bucket/d"]);
    assert!(out.ends_with("26 would be deleted\n"), "{out}");
    assert_eq!(place.keys("").len(), 27);
    place.clear();
    place.ok(&["rm", "-r", "s3://bucket/d"]);
    assert_eq!(place.count("DeleteObjects"), 3, "{:?}", place.server.counts());
    assert_eq!(place.keys(""), ["d2"]);
    assert_eq!(place.fails(1, &["rm", "-r", "s3://bucket/d"]), "nothing is stored at s3://bucket/d or below it");
    let told = place.fails(2, &["rm", "-r", "s3://bucket"]);
    assert_eq!(told, "s3://bucket/ is a whole bucket; add --all to delete everything in it");
    assert_eq!(place.json_lines(&["rm", "-r", "--all", "--json", "s3://bucket"])[0]["uri"], "s3://bucket/d2");
    assert_eq!(place.ok(&["ls", "s3://bucket"]), "");
}

#[test]
fn rm_r_goes_on_after_a_key_that_cannot_be_deleted() {
    let place = Place::new();
    for key in ["d/a", "d/b", "d/c"] {
        place.put(key, "");
    }
    place.server.knobs().set(|b| b.no_delete_many = true);
    place
        .server
        .knobs()
        .fail(Rule::new("DeleteObject", Action::Status(403, "AccessDenied".into())).key("d/b").always());
    let ran = place.run(&["rm", "-r", "s3://bucket/d"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("not deleted: delete object key=\"d/b\""), "{ran:?}");
    assert!(ran.err.ends_with("1 of 3 could not be deleted\n"), "{ran:?}");
    assert_eq!(place.keys(""), ["d/b"]);
}

// XOS-MPU-05, XOS-MPU-06, XOS-MPU-10
#[test]
fn uploads_are_listed_and_aborted() {
    let place = Place::new();
    place.write("large", super::common::noise::noise(1, 11 << 20));
    place.server.knobs().fail(Rule::new("UploadPart", Action::Status(403, "AccessDenied".into())).nth(2).every(2));
    for key in ["u/one", "u/two"] {
        let uri = format!("s3://bucket/{key}");
        let ran = place.run(&["cp", "--resume", "-o", "part_size=5M,max_uploads=1", "large", &uri]);
        assert!(ran.code == Some(1) && ran.err.contains("--resume"), "{ran:?}");
    }
    place.server.knobs().clear_rules();
    let list = place.json_lines(&["uploads", "ls", "--json", "s3://bucket"]);
    assert_eq!(list.len(), 2);
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(place.ok(&["uploads", "parts", "s3://bucket/u/one", id]).lines().count(), 1);
    assert_eq!(place.ok(&["uploads", "ls", "--older-than", "1h", "s3://bucket"]), "");
    assert_eq!(place.ok(&["uploads", "abort", "--older-than", "1h", "s3://bucket"]), "");
    let told = place.fails(2, &["uploads", "abort", "s3://bucket/u/"]);
    assert!(told.contains("name an upload by its id, or write --older-than 7d, or --all"), "{told}");
    assert!(place.fails(1, &["uploads", "abort", "s3://bucket/u/one", "wrong"]).contains("NoSuchUpload"));
    assert!(place.ok(&["uploads", "abort", "s3://bucket/u/one", id]).starts_with("aborted "));
    assert!(place.ok(&["uploads", "abort", "-n", "--all", "s3://bucket"]).starts_with("would abort "));
    assert_eq!(place.ok(&["uploads", "abort", "--all", "s3://bucket"]).lines().count(), 1);
    assert_eq!(place.ok(&["uploads", "ls", "s3://bucket"]), "");
    assert!(place.fails(1, &["uploads", "parts", "s3://bucket/u/one"]).contains("no upload is in progress"));
}
