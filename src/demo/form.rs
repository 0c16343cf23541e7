//! Forms of browsers: the fields that the S3 crate does not read.
//!
//! Difficulty: the crate checks all fields against the policy and hands on only those that it knows. They are therefore
//! read here before it, from the same bytes.

use bytes::Bytes;

/// What a form says besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// Canned ACL.
    pub acl: Option<String>,
    /// Name of the file that was chosen, for `${filename}` in the key.
    pub filename: Option<String>,
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|w| w == part)
}

/// `name="VALUE"` of a Content-Disposition.
fn parameter(head: &str, name: &str) -> Option<String> {
    let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let (_, rest) = line.split_once(&format!(" {name}=\""))?;
    rest.split('"').next().map(str::to_owned)
}

impl Form {
    /// `content_type`: that of the request. What is no form has no fields.
    pub fn read(content_type: &str, body: &Bytes) -> Form {
        let mut form = Form::default();
        let Some((_, boundary)) = content_type.split_once("boundary=") else { return form };
        let line = format!("--{}", boundary.split(';').next().unwrap_or_default().trim().trim_matches('"'));
        let mut rest: &[u8] = body;
        while let Some(at) = find(rest, line.as_bytes()) {
            rest = &rest[at + line.len()..];
            let Some(end) = find(rest, b"\r\n\r\n") else { break };
            let head = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 4..];
            match parameter(&head, "name").map(|n| n.to_ascii_lowercase()).as_deref() {
                // What comes after the file counts for nothing.
                Some("file") => {
                    form.filename = parameter(&head, "filename").map(|n| {
                        // Some browsers send the whole path.
                        n.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
                    });
                    break;
                }
                Some("acl") => {
                    let end = find(rest, b"\r\n").unwrap_or(rest.len());
                    form.acl = Some(String::from_utf8_lossy(&rest[..end]).into_owned());
                }
                _ => {}
            }
        }
        form
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_before_the_file_are_read() {
        let body = Bytes::from_static(
            b"--B\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nup/${filename}\r\n\
              --B\r\ncontent-disposition: form-data; name=\"ACL\"\r\n\r\npublic-read\r\n\
              --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\x\\a b.txt\"\r\n\
              Content-Type: text/plain\r\n\r\n--B\r\nContent-Disposition: form-data; name=\"acl\"\r\n\r\nprivate\r\n--B--\r\n",
        );
        let found = Form::read("multipart/form-data; boundary=B", &body);
        assert_eq!(found, Form { acl: Some("public-read".into()), filename: Some("a b.txt".into()) });
        assert_eq!(Form::read("multipart/form-data; boundary=\"C\"", &body), Form::default());
        assert_eq!(Form::read("text/plain", &body), Form::default());
    }
}
