//! Who may do what, tags, and the settings of buckets.

use reqwest::Method;

use super::{BUCKET, Client, code, element, start};

#[tokio::test]
async fn access_lists_decide_what_others_may_do() {
    let (server, s3) = start().await;
    let second = Client::new(&server, Some(server.second_user()));
    let anonymous = Client::new(&server, None);
    s3.put("private", &[], "x").await;
    s3.put("public", &[("x-amz-acl", "public-read")], "x").await;
    s3.put("users", &[("x-amz-acl", "authenticated-read")], "x").await;
    let grant = format!("id=\"{}\"", server.second_user().user_id);
    s3.put("granted", &[("x-amz-grant-read", &grant)], "x").await;
    for (key, for_second, for_anonymous) in
        [("private", 403, 403), ("public", 200, 200), ("users", 200, 403), ("granted", 200, 403), ("absent", 403, 403)]
    {
        assert_eq!(second.get(key, &[], &[]).await.status(), for_second, "{key}");
        assert_eq!(anonymous.get(key, &[], &[]).await.status(), for_anonymous, "{key}");
    }
    assert_eq!(second.send(Method::DELETE, "public", &[], &[], "").await.status(), 403);
    let acl = s3.get("granted", &[("acl", "")], &[]).await.text().await.unwrap();
    assert!(acl.contains(&server.second_user().user_id) && acl.contains("<Permission>READ</Permission>"), "{acl}");
    let canned = s3.send(Method::PUT, "private", &[("acl", "")], &[("x-amz-acl", "public-read")], "").await;
    assert_eq!(canned.status(), 200);
    assert_eq!(anonymous.get("private", &[], &[]).await.status(), 200);
    let open = s3.send(Method::PUT, "", &[("acl", "")], &[("x-amz-acl", "public-read-write")], "").await;
    assert_eq!(open.status(), 200);
    assert_eq!(anonymous.get("", &[], &[]).await.status(), 200);
    assert_eq!(second.put("theirs", &[], "x").await.status(), 200);
    // The object is the writer's, not the bucket owner's.
    assert_eq!(s3.get("theirs", &[], &[]).await.status(), 403);
    assert_eq!(anonymous.get("absent", &[], &[]).await.status(), 404);
}

#[tokio::test]
async fn an_acl_document_is_taken_as_it_was_given_out() {
    let (server, s3) = start().await;
    s3.put("k", &[("x-amz-acl", "public-read")], "x").await;
    let document = s3.get("k", &[("acl", "")], &[]).await.text().await.unwrap();
    s3.put("other", &[], "x").await;
    let put = s3.send(Method::PUT, "other", &[("acl", "")], &[], document.clone()).await;
    assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
    assert_eq!(s3.get("other", &[("acl", "")], &[]).await.text().await.unwrap(), document);
    assert_eq!(Client::new(&server, None).get("other", &[], &[]).await.status(), 200);
}

#[tokio::test]
async fn tags_keep_to_their_limits() {
    let (server, s3) = start().await;
    server.store().put(BUCKET, "k", "x");
    let tag = |k: &str, v: &str| format!("<Tag><Key>{k}</Key><Value>{v}</Value></Tag>");
    let put = |tags: String| {
        let xml = format!("<Tagging><TagSet>{tags}</TagSet></Tagging>");
        s3.send(Method::PUT, "k", &[("tagging", "")], &[], xml)
    };
    let ten: String = (0..10).map(|i| tag(&format!("k{i}"), "v")).collect();
    assert_eq!(put(ten.clone()).await.status(), 200);
    assert_eq!(put(tag(&"k".repeat(128), &"v".repeat(256))).await.status(), 200);
    for bad in
        [ten + &tag("k10", "v"), tag(&"k".repeat(129), "v"), tag("k", &"v".repeat(257)), tag("k", "1") + &tag("k", "2")]
    {
        assert_eq!(code(put(bad).await).await, (400, "InvalidTag".into()));
    }
    let got = s3.get("k", &[("tagging", "")], &[]).await.text().await.unwrap();
    assert_eq!(element(&got, "Value").unwrap().len(), 256);
    assert_eq!(s3.send(Method::DELETE, "k", &[("tagging", "")], &[], "").await.status(), 204);
    assert!(server.store().head(BUCKET, "k").unwrap().attributes.tags.is_empty());
}

#[tokio::test]
async fn buckets_have_a_life_and_a_configuration() {
    let (server, s3) = start().await;
    assert_eq!(s3.send(Method::HEAD, "", &[], &[], "").await.status(), 200);
    assert_eq!(code(s3.send(Method::PUT, "", &[], &[], "").await).await, (409, "BucketAlreadyOwnedByYou".into()));
    let location = s3.get("", &[("location", "")], &[]).await.text().await.unwrap();
    assert!(location.contains("LocationConstraint"));
    for (name, absent) in [
        ("policy", "NoSuchBucketPolicy"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("cors", "NoSuchCORSConfiguration"),
        ("tagging", "NoSuchTagSet"),
    ] {
        assert_eq!(code(s3.get("", &[(name, "")], &[]).await).await, (404, absent.into()));
    }
    let bad = s3.send(Method::PUT, "", &[("policy", "")], &[], "{").await;
    assert_eq!(code(bad).await, (400, "MalformedPolicy".into()));
    let policy = "{\"Version\":\"2012-10-17\",\"Statement\":[]}";
    assert!(s3.send(Method::PUT, "", &[("policy", "")], &[], policy).await.status().is_success());
    assert_eq!(s3.get("", &[("policy", "")], &[]).await.text().await.unwrap(), policy);
    let lifecycle = "<LifecycleConfiguration><Rule><ID>r</ID><Filter><Prefix>tmp/</Prefix></Filter>\
                     <Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule></LifecycleConfiguration>";
    assert_eq!(s3.send(Method::PUT, "", &[("lifecycle", "")], &[], lifecycle).await.status(), 200);
    let got = s3.get("", &[("lifecycle", "")], &[]).await.text().await.unwrap();
    assert_eq!((element(&got, "Days"), element(&got, "Prefix")), (Some("3"), Some("tmp/")));
    let cors = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin>\
                </CORSRule></CORSConfiguration>";
    assert_eq!(s3.send(Method::PUT, "", &[("cors", "")], &[], cors).await.status(), 200);
    let got = s3.get("", &[("cors", "")], &[]).await.text().await.unwrap();
    assert_eq!(element(&got, "AllowedMethod"), Some("GET"));
    assert_eq!(s3.send(Method::DELETE, "", &[("cors", "")], &[], "").await.status(), 204);
    server.store().put(BUCKET, "k", "x");
    assert_eq!(code(s3.send(Method::DELETE, "", &[], &[], "").await).await, (409, "BucketNotEmpty".into()));
    server.store().delete(BUCKET, "k");
    assert_eq!(s3.send(Method::DELETE, "", &[], &[], "").await.status(), 204);
    assert_eq!(code(s3.get("", &[], &[]).await).await, (404, "NoSuchBucket".into()));
}
