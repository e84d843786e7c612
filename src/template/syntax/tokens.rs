//! Texts and tags, one after the other.

use super::{At, Fault, Kind, MAX_NESTING, Tag};

pub(super) enum Token {
    Text(String, At),
    Tag(Tag),
    Raw { open: Tag, text: String, close: Tag },
}

pub(super) fn tokens(text: &str, file: usize) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut words = String::new();
    let mut rest = text;
    let place = |rest: &str| At { file, offset: text.len() - rest.len() };
    let mut begun = place(rest);
    while let Some(begin) = rest.find("{{") {
        let before = &rest[..begin];
        rest = &rest[begin..];
        // One backslash makes text of what follows, two are one backslash.
        if let Some(less) = before.strip_suffix('\\') {
            words.push_str(less);
            if !less.ends_with('\\') {
                words.push_str("{{");
                rest = &rest[2..];
                continue;
            }
        } else {
            words.push_str(before);
        }
        if !words.is_empty() {
            tokens.push(Token::Text(std::mem::take(&mut words), begun));
        }
        let at = place(rest);
        let (token, after) = if rest.starts_with("{{{{") { raw(rest, at)? } else { tag(rest, at)? };
        tokens.push(token);
        rest = after;
        begun = place(rest);
    }
    words.push_str(rest);
    if !words.is_empty() {
        tokens.push(Token::Text(words, begun));
    }
    Ok(tokens)
}

/// Leaves out the comments of markup with the tags in them. Conditional comments are for Outlook, and one with a
/// block that ends elsewhere (`<!-- {{#if a}} -->`) keeps the tags of others from a program's eyes: those stay.
pub(super) fn without_comments(tokens: Vec<Token>) -> Vec<Token> {
    // Where each comment begins and ends: a token, and an offset in it.
    let mut found: Vec<[(usize, usize); 2]> = Vec::new();
    let mut begin = None;
    let mut style: Option<&str> = None;
    for (index, token) in tokens.iter().enumerate() {
        let Token::Text(text, _) = token else { continue };
        let mut from = 0;
        loop {
            let rest = &text[from..];
            if let Some(begun) = begin {
                let Some(end) = rest.find("-->") else { break };
                from += end + 3;
                found.push([begun, (index, from)]);
                begin = None;
            } else if let Some(close) = style {
                let Some(end) = rest.find(close) else { break };
                from += end + close.len();
                style = None;
            } else {
                // What looks like a comment within styles is not one.
                let Some(at) = rest.find('<') else { break };
                let rest = &rest[at..];
                from += at + 1;
                let is_conditional =
                    ["<!--[", "<!--<!", "<!-->"].iter().any(|it| rest.starts_with(it));
                if rest.starts_with("<!--") && !is_conditional {
                    begin = Some((index, from - 1));
                    from += 3;
                } else if rest.starts_with("<style") {
                    style = Some("</style");
                } else if rest.starts_with("<mj-style") {
                    style = Some("</mj-style");
                }
            }
        }
    }
    found.retain(|[(begin, _), (end, _)]| is_whole(&tokens[*begin + 1..(*end).max(*begin + 1)]));
    let mut kept = Vec::new();
    let mut found = found.into_iter().peekable();
    let mut comment: Option<(usize, usize)> = None;
    for (index, token) in tokens.into_iter().enumerate() {
        let Token::Text(text, at) = token else {
            if comment.is_none() {
                kept.push(token);
            }
            continue;
        };
        let mut from = 0;
        let mut words = String::new();
        loop {
            if let Some((last, end)) = comment {
                if last != index {
                    break;
                }
                (from, comment) = (end, None);
            }
            match found.peek() {
                Some([(first, begin), end]) if *first == index => {
                    words.push_str(&text[from..*begin]);
                    comment = Some(*end);
                    found.next();
                }
                _ => {
                    words.push_str(&text[from..]);
                    break;
                }
            }
        }
        if !words.is_empty() {
            kept.push(Token::Text(words, at));
        }
    }
    kept
}

/// Whether the blocks that begin among these end among them.
fn is_whole(tokens: &[Token]) -> bool {
    let mut depth = 0_usize;
    for token in tokens {
        let Token::Tag(tag) = token else { continue };
        match tag.kind {
            Kind::Open | Kind::OpenInverse | Kind::OpenPartial | Kind::Inline => depth += 1,
            Kind::Else if depth == 0 => return false,
            Kind::Close if depth == 0 => return false,
            Kind::Close => depth -= 1,
            _ => {}
        }
    }
    depth == 0
}

fn tag(rest: &str, at: At) -> Result<(Token, &str), Fault> {
    let unclosed = || Fault::new(at, "the tag that begins here has no end");
    let inner = &rest[2..];
    let (inner, left) = inner.strip_prefix('~').map_or((inner, false), |inner| (inner, true));
    let done = |kind, body: &str, end: usize, closing: usize, right| {
        let after = &inner[end + closing..];
        let body = body.trim().to_owned();
        (Token::Tag(Tag { strip: (left, right), ..Tag::new(kind, body, at) }), after)
    };
    if inner.starts_with('!') {
        let ends: &[&str] = if inner.starts_with("!--") { &["--}}", "--~}}"] } else { &["}}"] };
        let found = ends.iter().filter_map(|end| Some((inner.find(end)?, *end))).min();
        let (end, closing) = found.ok_or_else(unclosed)?;
        let right = inner[..end + closing.len() - 2].ends_with('~');
        return Ok(done(Kind::Comment, "", end, closing.len(), right));
    }
    let closing = if inner.starts_with('{') { "}}}" } else { "}}" };
    let end = end_of_tag(inner).ok_or_else(unclosed)?;
    let (body, right) = match inner[..end].strip_suffix('~') {
        Some(body) => (body, true),
        None => (&inner[..end], false),
    };
    if let Some(body) = body.strip_prefix('{') {
        // `{{{~a~}}}` is not Handlebars, `{{~{a}~}}` is.
        let body = body.strip_suffix('}').unwrap_or(body);
        let closing = if inner[end..].starts_with(closing) { 3 } else { 2 };
        return Ok(done(Kind::Markup, body, end, closing, right));
    }
    let is_else = |body: &str| {
        let rest = body.trim_start().strip_prefix("else");
        rest.is_some_and(|rest| {
            !rest.starts_with(|c: char| c.is_alphanumeric() || "_-.".contains(c))
        })
    };
    let (kind, body) = match body.as_bytes().first() {
        Some(b'#') if body.starts_with("#>") => (Kind::OpenPartial, &body[2..]),
        Some(b'#') if body.starts_with("#*") => (Kind::Inline, &body[2..]),
        Some(b'#') => (Kind::Open, &body[1..]),
        Some(b'/') => (Kind::Close, &body[1..]),
        Some(b'>') => (Kind::Partial, &body[1..]),
        Some(b'*') => (Kind::Decorator, &body[1..]),
        Some(b'&') => (Kind::Markup, &body[1..]),
        Some(b'^') if body[1..].trim().is_empty() => (Kind::Else, "else"),
        Some(b'^') => (Kind::OpenInverse, &body[1..]),
        _ if is_else(body) => (Kind::Else, body),
        _ => (Kind::Print, body),
    };
    if calls(body) > MAX_NESTING {
        return Err(Fault::new(at, format!("its calls nest deeper than {MAX_NESTING}")));
    }
    Ok(done(kind, body, end, 2, right))
}

/// Where a tag ends, outside of texts and of names in brackets.
fn end_of_tag(inner: &str) -> Option<usize> {
    let bytes = inner.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'}' if inner[at..].starts_with("}}") => return Some(at),
            sign @ (b'"' | b'\'' | b'[') => {
                let closing = if sign == b'[' { b']' } else { sign };
                at += 1;
                while *bytes.get(at)? != closing {
                    at += if bytes[at] == b'\\' && bytes.get(at + 1) == Some(&closing) {
                        2
                    } else {
                        1
                    };
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
    None
}

/// How deep calls lie in each other.
fn calls(body: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in body.bytes() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// `{{{{raw}}}} … {{{{/raw}}}}`: what looks like tags in it is text.
fn raw(rest: &str, at: At) -> Result<(Token, &str), Fault> {
    let unclosed = || Fault::new(at, "the raw block that begins here has no end");
    let (name, content) = rest[4..].split_once("}}}}").ok_or_else(unclosed)?;
    let open = Tag::new(Kind::Open, name.trim(), at);
    let (mut depth, mut from) = (1, 0);
    loop {
        let found = from + content[from..].find("{{{{").ok_or_else(unclosed)?;
        // Braces before the last four are text.
        let braces = content[found..].bytes().take_while(|byte| *byte == b'{').count();
        let found = found + braces - 4;
        from = found + 4;
        if !content[from..].starts_with('/') {
            depth += 1;
            continue;
        }
        depth -= 1;
        if depth == 0 {
            let (name, after) = content[from + 1..].split_once("}}}}").ok_or_else(unclosed)?;
            if name.trim() != open.name() {
                let reason = format!("{{{{{{{{{}}}}}}}}} is closed by {name:?}", open.name());
                return Err(Fault::new(at, reason));
            }
            let close = Tag::new(Kind::Close, name.trim(), at);
            return Ok((Token::Raw { open, text: content[..found].to_owned(), close }, after));
        }
    }
}
