//! Forms with files, as browsers upload them (RFC 7578). Only what reading one field needs.

/// The boundary, if the content type is that of such a form.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("boundary") && !value.is_empty()).then_some(value)
    })
}

/// The content of the first field of that name.
pub(super) fn field<'a>(body: &'a [u8], boundary: &str, name: &str) -> Option<&'a [u8]> {
    let delimiter = format!("--{boundary}");
    let mut rest = body.get(find(body, delimiter.as_bytes())? + delimiter.len()..)?;
    loop {
        // The last boundary ends with two dashes.
        rest = rest.strip_prefix(b"\r\n")?;
        let head_end = find(rest, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(rest.get(..head_end)?);
        let content = rest.get(head_end + 4..)?;
        let end = find(content, format!("\r\n{delimiter}").as_bytes())?;
        if is_named(&head, name) {
            return content.get(..end);
        }
        rest = content.get(end + 2 + delimiter.len()..)?;
    }
}

fn is_named(head: &str, name: &str) -> bool {
    let mut lines = head.split("\r\n");
    let disposition = lines.find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"));
    disposition.is_some_and(|line| {
        let mut parameters = line.split(';').skip(1);
        parameters.any(|parameter| {
            let (key, value) = parameter.split_once('=').unwrap_or_default();
            key.trim().eq_ignore_ascii_case("name") && value.trim().trim_matches('"') == name
        })
    })
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_of_a_form_is_found_among_others() {
        let content_type = "multipart/form-data; boundary=\"xyz\"";
        assert_eq!(boundary(content_type), Some("xyz"));
        assert_eq!(boundary("application/json"), None);
        let form = b"preamble\r\n--xyz\r\nContent-Disposition: form-data; name=\"pw\"\r\n\r\nsecret\r\n--xyz\r\n\
            Content-Disposition: form-data; name=\"file\"; filename=\"a.json\"\r\nContent-Type: application/json\r\n\r\n{\r\n}\r\n--xyz--\r\n";
        assert_eq!(field(form, "xyz", "file"), Some(&b"{\r\n}"[..]));
        assert_eq!(field(form, "xyz", "pw"), Some(&b"secret"[..]));
        assert_eq!(field(form, "xyz", "other"), None);
        for cut in 0..form.len() - 12 {
            assert_eq!(field(&form[..cut], "xyz", "file"), None, "cut off at {cut}");
        }
    }
}
