//! What a store turns out not to understand, and what it says of place, time and keys.

use xosfs::Kind;
use xosfs::config::credentials::Credentials;
use xosfs::key::Key;
use xosfs::s3::*;

use super::script::{Reply, Script, answer, error, error_body};
use super::{get, put};

#[tokio::test]
async fn if_match_is_sent_unquoted_where_only_that_works() {
    let condition = || Condition::Match(ETag::new("abc"));
    let script = Script::new(vec![error(412, "PreconditionFailed"), answer(200, ""), answer(200, "")]).await;
    let s3 = script.client(|_| {});
    put(&s3, condition()).await.unwrap();
    put(&s3, condition()).await.unwrap();
    let sent: Vec<_> = script.requests().iter().map(|r| r.header("if-match").unwrap().to_owned()).collect();
    assert_eq!(sent, ["\"abc\"", "abc", "abc"]);
    let script = Script::new(vec![error(412, "PreconditionFailed"), error(412, "PreconditionFailed")]).await;
    assert_eq!(put(&script.client(|_| {}), condition()).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(script.count(), 2);
}

#[tokio::test]
async fn a_store_without_conditions_is_asked_once() {
    // Twice, for the checksum may be what it lacks.
    let script = Script::new(vec![error(501, "NotImplemented"), error(501, "NotImplemented")]).await;
    let s3 = script.client(|_| {});
    for _ in 0..2 {
        assert_eq!(put(&s3, Condition::Absent).await.unwrap_err().kind(), Kind::Unsupported);
    }
    assert_eq!(script.count(), 2);
}

#[tokio::test]
async fn the_region_a_store_names_is_used_from_then_on() {
    let body = "<Error><Code>AuthorizationQueryParametersError</Code><Region>eu-west-7</Region></Error>";
    let hint = Reply::Answer(400, vec![], body.into());
    let script = Script::new(vec![hint, answer(200, "a"), answer(200, "b")]).await;
    let s3 = script.client(|_| {});
    get(&s3).await.unwrap();
    get(&s3).await.unwrap();
    let regions: Vec<_> = script.requests().iter().map(|r| r.target.contains("eu-west-7")).collect();
    assert_eq!(regions, [false, true, true]);
    assert_eq!(s3.region(), "eu-west-7");
    // HEAD has no body: the header tells. A store that insists on nonsense is not followed for ever.
    let hint = |r: &str| Reply::Answer(400, vec![("x-amz-bucket-region", r.to_owned())], vec![]);
    let script = Script::new(vec![hint("x"), hint("y")]).await;
    let e = script.client(|_| {}).head_bucket().await.unwrap_err();
    assert_eq!(script.count(), 2);
    assert!(e.to_string().contains("region=y"), "{e}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let script = Script::new(vec![Reply::Answer(
        307,
        vec![("location", "http://127.0.0.1:1/evil".into())],
        b"<Error><Code>TemporaryRedirect</Code><Endpoint>other.example.com</Endpoint></Error>".to_vec(),
    )])
    .await;
    let e = get(&script.client(|_| {})).await.unwrap_err();
    assert_eq!(script.count(), 1);
    assert!(e.to_string().contains("other.example.com"), "{e}");
}

#[tokio::test]
async fn a_wrong_clock_is_allowed_for() {
    let date = "Wed, 01 Jan 2031 12:00:00 GMT".to_owned();
    let skewed = Reply::Answer(403, vec![("date", date)], error_body("RequestTimeTooSkewed").into());
    let script = Script::new(vec![skewed.clone(), answer(200, "a"), answer(200, "b")]).await;
    let s3 = script.client(|_| {});
    get(&s3).await.unwrap();
    get(&s3).await.unwrap();
    let dates: Vec<_> = script.requests().iter().map(|r| r.target.contains("X-Amz-Date=20310101T")).collect();
    assert_eq!(dates, [false, true, true]);
    let script = Script::new(vec![skewed.clone(), skewed]).await;
    let e = get(&script.client(|_| {})).await.unwrap_err();
    assert_eq!((e.kind(), script.count()), (Kind::Denied, 2));
    assert!(e.to_string().contains("clock"), "{e}");
}

#[tokio::test]
async fn expired_credentials_are_read_again_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let write = |ak: &str| {
        std::fs::write(&file, format!("[default]\naws_access_key_id={ak}\naws_secret_access_key=s\n")).unwrap();
    };
    write("old");
    let path = file.to_str().unwrap().to_owned();
    let env = move |name: &str| match name {
        "AWS_SHARED_CREDENTIALS_FILE" => Some(path.clone()),
        "HOME" => Some("/nonexistent".into()),
        _ => None,
    };
    let credentials = Credentials::find(None, &env).unwrap();
    let script = Script::new(vec![error(400, "ExpiredToken"), answer(200, "a"), error(403, "AccessDenied")]).await;
    let s3 = script.client(|s| s.credentials = credentials);
    write("new");
    get(&s3).await.unwrap();
    let used: Vec<_> = script.requests().iter().map(|r| r.target.contains("Credential=new")).collect();
    assert_eq!(used, [false, true]);
    // Nothing new on disk: the answer stands.
    assert_eq!(get(&s3).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(script.count(), 3);
}

#[tokio::test]
async fn listings_fall_back_to_v1_and_stay_there() {
    let v1 = |key: &str, more: bool| {
        answer(
            200,
            &format!(
                "<ListBucketResult><IsTruncated>{more}</IsTruncated><Contents><Key>{key}</Key><Size>1</Size></Contents></ListBucketResult>"
            ),
        )
    };
    let script = Script::new(vec![v1("a", true), v1("b", true), v1("c", false)]).await;
    let s3 = script.client(|_| {});
    let mut from = None;
    let mut keys = Vec::new();
    loop {
        let page = s3.list(&ListQuery { from, ..ListQuery::default() }).await.unwrap();
        keys.extend(page.objects.into_iter().map(|o| o.key));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["a", "b", "c"]);
    let targets: Vec<_> = script.requests().into_iter().map(|r| r.target).collect();
    assert!(targets[0].contains("list-type=2"));
    assert!(targets[1].contains("marker=a&") && !targets[1].contains("list-type"));
    assert!(targets[2].contains("marker=b&"));
    let script = Script::new(vec![error(501, "NotImplemented"), v1("a", false)]).await;
    assert_eq!(script.client(|_| {}).list(&ListQuery::default()).await.unwrap().objects.len(), 1);
    assert_eq!(script.count(), 2);
}

#[tokio::test]
async fn a_store_that_forgets_the_marker_of_encoded_listings_is_asked_for_plain_ones() {
    let page = |key: &str, more: bool| {
        answer(
            200,
            &format!(
                "<ListBucketResult><IsTruncated>{more}</IsTruncated><Contents><Key>{key}</Key></Contents></ListBucketResult>"
            ),
        )
    };
    let script = Script::new(vec![page("a", true), page("b", false)]).await;
    let s3 = script.client(|s| s.list_version = ListVersion::V1);
    let from = Some(Continue::After("a".into()));
    let got = s3.list(&ListQuery { from, ..ListQuery::default() }).await.unwrap();
    assert_eq!((got.objects[0].key.as_str(), got.next), ("b", None));
    let targets: Vec<_> = script.requests().into_iter().map(|r| r.target.contains("encoding-type")).collect();
    assert_eq!(targets, [true, false]);
}

#[tokio::test]
async fn a_store_without_multi_delete_gets_single_ones() {
    let keys: Vec<Key> = (0..3).map(|i| Key::new(format!("k{i}")).unwrap()).collect();
    let mut replies = vec![error(501, "NotImplemented")];
    replies.extend(vec![answer(204, ""); 6]);
    let script = Script::new(replies).await;
    let s3 = script.client(|_| {});
    assert!(s3.delete_many(&keys).await.unwrap().is_empty());
    assert!(s3.delete_many(&keys).await.unwrap().is_empty());
    let methods: Vec<_> = script.requests().into_iter().map(|r| r.method).collect();
    assert_eq!(methods[0], "POST");
    assert_eq!(methods[1..], ["DELETE"; 6]);
}
