//! A pull parser for the XML of a fault: tags, attributes and text. Names lose their namespace prefix. It stops at the
//! first thing that is not well-formed or is cut off, so that a broken body gives no wrong code.

/// A piece of a document. A comment, a processing instruction and a document type are skipped.
pub(super) enum Event<'a> {
    Start(StartTag<'a>),
    /// An end tag, by its name.
    End(&'a str),
    /// Text as it is written, without its entities resolved, or the content of a CDATA section.
    Text(&'a str),
}

pub(super) struct StartTag<'a> {
    pub(super) name: &'a str,
    /// Whether the tag ends its element as well: `<name/>`.
    pub(super) is_empty: bool,
    attributes: &'a str,
}

impl<'a> StartTag<'a> {
    pub(super) fn attribute(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.attributes;
        loop {
            let (key, after) = rest.split_once('=')?;
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| is_quote(*c))?;
            let (value, after) = after[1..].split_once(quote)?;
            if local(key.trim()) == name {
                return Some(value);
            }
            rest = after;
        }
    }
}

pub(super) struct Events<'a> {
    rest: &'a str,
}

impl<'a> Events<'a> {
    pub(super) fn of(document: &'a str) -> Self {
        Self { rest: document }
    }

    /// Consumes everything up to and including the delimiter. `None` if it is missing: the document is cut off.
    fn until(&mut self, delimiter: &str) -> Option<&'a str> {
        let (before, after) = self.rest.split_once(delimiter)?;
        self.rest = after;
        Some(before)
    }

    fn skip(&mut self, prefix: &str) -> bool {
        let after = self.rest.strip_prefix(prefix);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    /// Consumes the rest of a start tag. A `>` in an attribute's value does not end it.
    fn start_tag(&mut self) -> Option<StartTag<'a>> {
        let mut quote = None;
        let end = self.rest.find(|c| {
            match quote {
                None if is_quote(c) => quote = Some(c),
                Some(open) if open == c => quote = None,
                _ => {}
            }
            // An attribute's value cannot contain a `<`.
            c == '<' || (c == '>' && quote.is_none())
        })?;
        let (tag, after) = self.rest.split_at(end);
        self.rest = after.strip_prefix('>')?;
        let (tag, is_empty) = match tag.strip_suffix('/') {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        let (name, attributes) = tag.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((tag, ""));
        // Otherwise the `<` is not the beginning of a tag.
        let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        is_name.then_some(StartTag {
            name: local(name),
            is_empty,
            attributes,
        })
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            if !self.rest.starts_with('<') {
                // Text that no markup follows is cut off.
                let (text, markup) = self.rest.split_at(self.rest.find('<')?);
                self.rest = markup;
                return Some(Event::Text(text));
            }
            if self.skip("<!--") {
                self.until("-->")?;
            } else if self.skip("<![CDATA[") {
                return self.until("]]>").map(Event::Text);
            } else if self.skip("<?") {
                self.until("?>")?;
            } else if self.skip("<!") {
                // The declarations in an internal subset would need a parser for them.
                if self.until(">")?.contains('[') {
                    return None;
                }
            } else if self.skip("</") {
                return self.until(">").map(|name| Event::End(local(name.trim_ascii_end())));
            } else {
                self.skip("<");
                return self.start_tag().map(Event::Start);
            }
        }
    }
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'')
}

/// A name without its namespace prefix.
fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}
