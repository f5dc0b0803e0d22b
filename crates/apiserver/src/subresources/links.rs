//! Links of HTML pages that come through a proxy: those that begin at the root of what is proxied must begin below the
//! proxy. Attributes that hold links are rewritten where they stand, everything else stays as it was written. Pure.

/// A tag that is longer than this many bytes is left as it is.
const MAX_TAG_BYTES: usize = 64 << 10;
/// Elements whose content is no markup (HTML, 13.2.5.2 to 13.2.5.4).
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// Attributes that hold links, by element (HTML 4.01, index of attributes, and those of HTML since; upstream's table).
fn holds_link(element: &str, attribute: &str) -> bool {
    let attributes: &[&str] = match element {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "script" | "source" => &["src"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "embed" => &["src"],
        "form" => &["action"],
        "frame" | "iframe" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "img" => &["longdesc", "src", "usemap"],
        "input" => &["src", "usemap", "formaction"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    };
    attributes.contains(&attribute)
}

/// What is being read.
#[derive(Clone, Copy, Debug, Default)]
enum Mode {
    #[default]
    Markup,
    Comment,
    /// The content of one of [`RAW`].
    Raw(&'static str),
}

/// Rewrites a page as it comes.
#[derive(Debug, Default)]
pub(super) struct Links {
    pending: Vec<u8>,
    mode: Mode,
}

impl Links {
    /// Takes a part of the page, the last one perhaps; `rewrite` says what becomes of a link, none: it stays.
    pub fn push(&mut self, part: &[u8], last: bool, rewrite: &dyn Fn(&str) -> Option<String>) -> Vec<u8> {
        self.pending.extend_from_slice(part);
        let pending = std::mem::take(&mut self.pending);
        let (mut out, mut rest) = (Vec::with_capacity(pending.len()), pending.as_slice());
        while let Some(taken) = self.step(rest, rewrite, &mut out) {
            rest = &rest[taken..];
        }
        if last || rest.len() > MAX_TAG_BYTES {
            out.extend_from_slice(rest);
        } else {
            self.pending = rest.to_vec();
        }
        out
    }

    /// Writes the next piece and says how long it was; none: more must come first.
    fn step(
        &mut self,
        rest: &[u8],
        rewrite: &dyn Fn(&str) -> Option<String>,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let reads_markup = matches!(self.mode, Mode::Markup);
        let copied = match self.mode {
            Mode::Markup => match rest.iter().position(|byte| *byte == b'<') {
                None => rest.len(),
                Some(0) => return self.tag(rest, rewrite, out),
                Some(at) => at,
            },
            Mode::Comment => self.until(rest, b"-->", 3),
            Mode::Raw(name) => self.until(rest, format!("</{name}").as_bytes(), 0),
        };
        out.extend_from_slice(&rest[..copied]);
        let turned = reads_markup != matches!(self.mode, Mode::Markup);
        (copied > 0 || turned).then_some(copied)
    }

    /// How many bytes belong to what ends with `end`, of which `with` bytes belong to it too.
    fn until(&mut self, rest: &[u8], end: &[u8], with: usize) -> usize {
        match rest.windows(end.len()).position(|window| window.eq_ignore_ascii_case(end)) {
            Some(at) => {
                self.mode = Mode::Markup;
                at + with
            }
            // The end may have begun.
            None => rest.len().saturating_sub(end.len() - 1),
        }
    }

    fn tag(
        &mut self,
        rest: &[u8],
        rewrite: &dyn Fn(&str) -> Option<String>,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        if rest.len() < 4 && b"<!--".starts_with(rest) {
            return None;
        }
        if rest.starts_with(b"<!--") {
            self.mode = Mode::Comment;
            out.extend_from_slice(&rest[..4]);
            return Some(4);
        }
        if !rest[1].is_ascii_alphabetic() {
            out.push(b'<');
            return Some(1);
        }
        let end = end_of_tag(rest)?;
        let (tag, name) = (&rest[..end], element(&rest[1..end]));
        match std::str::from_utf8(tag) {
            Ok(tag) => out.extend_from_slice(rewritten(tag, &name, rewrite).as_bytes()),
            Err(_) => out.extend_from_slice(tag),
        }
        if let Some(raw) = RAW.into_iter().find(|raw| *raw == name) {
            self.mode = Mode::Raw(raw);
        }
        Some(end)
    }
}

/// How long a tag is, its brackets included; quotes may hold brackets.
fn end_of_tag(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

fn element(tag: &[u8]) -> String {
    let name = tag.iter().take_while(|byte| byte.is_ascii_alphanumeric());
    name.map(|byte| char::from(byte.to_ascii_lowercase())).collect()
}

/// A tag with its links rewritten.
fn rewritten(tag: &str, element: &str, rewrite: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(tag.len());
    let (head, mut rest) = tag.split_at(1 + element.len());
    out.push_str(head);
    loop {
        let name_at = rest.find(|c: char| !c.is_ascii_whitespace() && c != '/').unwrap_or(rest.len());
        out.push_str(&rest[..name_at]);
        rest = &rest[name_at..];
        if rest.is_empty() || rest.starts_with('>') {
            out.push_str(rest);
            return out;
        }
        // A name may begin with an equals sign.
        let stops = |c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/');
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let name_end = rest[first..].find(stops).map_or(rest.len(), |at| at + first);
        let (name, after) = rest.split_at(name_end);
        out.push_str(name);
        let Some(value) = after.trim_ascii_start().strip_prefix('=') else {
            rest = after;
            continue;
        };
        let value = value.trim_ascii_start();
        out.push_str(&after[..after.len() - value.len()]);
        let (quote, value, end) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let inner = &value[1..];
                let end = inner.find(quote).unwrap_or(inner.len());
                (Some(quote), &inner[..end], inner.get(end + 1..).unwrap_or_default())
            }
            _ => {
                let end = value.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(value.len());
                (None, &value[..end], &value[end..])
            }
        };
        rest = end;
        let link = match holds_link(element, &name.to_ascii_lowercase()) {
            true => rewrite(&value.trim_ascii().replace("&amp;", "&")),
            false => None,
        };
        let quote = quote.or(link.as_ref().map(|_| '"'));
        let text = match link {
            Some(link) => escape(&link),
            None => value.to_owned(),
        };
        out.extend(quote);
        out.push_str(&text);
        out.extend(quote);
    }
}

fn escape(link: &str) -> String {
    link.replace('&', "&amp;").replace('"', "&#34;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(link: &str) -> Option<String> {
        link.starts_with('/').then(|| format!("/proxy{link}"))
    }

    /// The page when it comes in pieces of every size.
    fn page(text: &str) -> String {
        let whole = String::from_utf8(Links::default().push(text.as_bytes(), true, &below)).unwrap();
        for size in 1..text.len() {
            let (mut links, mut out) = (Links::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                out.extend(links.push(piece, false, &below));
            }
            out.extend(links.push(b"", true, &below));
            assert_eq!(String::from_utf8(out).unwrap(), whole, "pieces of {size}");
        }
        whole
    }

    #[test]
    fn links_go_below_the_proxy() {
        assert_eq!(page(r#"<a href="/rewriteme">test</a>"#), r#"<a href="/proxy/rewriteme">test</a>"#);
        let text = "<!DOCTYPE html><HTML><Link rel=x HREF='/a?b=1&amp;c=2'><img src = /i.png alt='>'/><form action=/f>";
        let wanted = "<!DOCTYPE html><HTML><Link rel=x HREF='/proxy/a?b=1&amp;c=2'><img src = \"/proxy/i.png\" alt='>'/><form action=\"/proxy/f\">";
        assert_eq!(page(text), wanted);
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "<p title=\"/a\" data-href='/b'>1 < 2 && a<b ü</p>",
            "<!-- <a href=\"/a\"> --><a href='relative' href2>",
            "<script>if (a < b) { x = '<a href=\"/a\">' }</script><style>a{}</style>",
            "<a href=\"http://elsewhere/x\" =odd / >",
            "<a href=\"/never ends",
            "</a href=\"/x\"><>< ><",
            "<textarea><img src=/a></TEXTAREA>",
        ] {
            assert_eq!(page(text), text);
        }
        assert_eq!(page("<!-- x --><a href=/y>"), "<!-- x --><a href=\"/proxy/y\">", "after a comment");
        assert_eq!(
            page("<script src=/s></script><a href=/y>"),
            "<script src=\"/proxy/s\"></script><a href=\"/proxy/y\">"
        );
    }
}
