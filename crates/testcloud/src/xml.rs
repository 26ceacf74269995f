//! The XML of S3 and of Google's XML interface, which is the same as far as it is used here.

use quick_xml::{
    Reader,
    escape::{escape, unescape},
    events::Event,
};

use crate::bucket::{Page, Query};

const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;

/// An error's body.
pub(crate) fn error(code: &str, message: &str, resource: &str) -> String {
    format!(
        "{HEAD}<Error><Code>{}</Code><Message>{}</Message><Resource>{}</Resource></Error>",
        escape(code),
        escape(message),
        escape(resource)
    )
}

/// A page of a list of keys.
pub(crate) fn list(bucket: &str, query: &Query, page: &Page) -> String {
    let mut text = format!(
        "{HEAD}<ListBucketResult><Name>{}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{}</MaxKeys>\
         <IsTruncated>{}</IsTruncated>",
        escape(bucket),
        escape(&query.prefix),
        page.objects.len() + page.folders.len(),
        query.max,
        page.next.is_some()
    );
    if let Some(next) = &page.next {
        text += &format!("<NextContinuationToken>{}</NextContinuationToken>", escape(next));
    }
    for (key, object) in &page.objects {
        text += &format!(
            "<Contents><Key>{}</Key><LastModified>{:.3}</LastModified><ETag>{}</ETag><Size>{}</Size>\
             <Generation>{}</Generation></Contents>",
            escape(key),
            object.modified,
            escape(&object.etag),
            object.bytes.len(),
            object.generation
        );
    }
    for folder in &page.folders {
        text += &format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(folder));
    }
    text + "</ListBucketResult>"
}

/// The keys of a request to remove many objects; `None` if it can't be read.
pub(crate) fn keys_to_delete(body: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::from_reader(body);
    let (mut keys, mut inside) = (Vec::new(), None::<String>);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) if tag.name().as_ref() == b"Key" => inside = Some(String::new()),
            Event::End(tag) if tag.name().as_ref() == b"Key" => keys.extend(inside.take()),
            Event::Text(text) => {
                if let Some(key) = &mut inside {
                    *key += std::str::from_utf8(&text).ok()?;
                }
            }
            // Entities are events of their own: `&amp;`.
            Event::GeneralRef(entity) => {
                if let Some(key) = &mut inside {
                    *key += &unescape(&format!("&{};", std::str::from_utf8(&entity).ok()?)).ok()?;
                }
            }
            Event::Eof => return Some(keys),
            _ => {}
        }
    }
}

/// What was removed.
pub(crate) fn deleted(keys: &[String]) -> String {
    let deleted = |key: &String| format!("<Deleted><Key>{}</Key></Deleted>", escape(key));
    format!("{HEAD}<DeleteResult>{}</DeleteResult>", keys.iter().map(deleted).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unescaped() {
        let body = b"<Delete xmlns=\"x\"><Object><Key>a&amp;b&lt;</Key></Object><Object><Key>c</Key></Object></Delete>";
        assert_eq!(keys_to_delete(body).unwrap(), ["a&b<", "c"]);
        assert_eq!(keys_to_delete(b"<Delete><Key></Delete>"), None);
    }
}
