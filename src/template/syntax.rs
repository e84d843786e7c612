//! Reading a template: its texts and tags, the blocks that they make, and the white space that Handlebars takes
//! away around them.
//!
//! The `handlebars` crate reads what stands within a tag (compile.rs). Tags themselves are found here, for
//! includes have to be put in before MJML becomes HTML, faults name a line and a column, and what nests too
//! deep must never reach a parser that recurses. White space goes as in `whitespace-control.js` of Handlebars
//! 4.7, file by file.

use std::rc::Rc;

/// Deepest nesting of blocks, or of calls within a tag: the crate's parser recurses.
pub(super) const MAX_NESTING: usize = 100;

/// A place: the number of a file, and the offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct At {
    pub(super) file: usize,
    pub(super) offset: usize,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: At,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn new(at: At, reason: impl Into<String>) -> Self {
        Self { at, reason: reason.into() }
    }
}

/// What a tag does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `{{name}}`
    Print,
    /// `{{{name}}}` or `{{&name}}`
    Markup,
    /// `{{#name}}`
    Open,
    /// `{{^name}}`
    OpenInverse,
    /// `{{#*inline "name"}}`
    Inline,
    /// `{{#> name}}`
    OpenPartial,
    /// `{{else}}`, `{{else if name}}`, `{{^}}`
    Else,
    /// `{{/name}}`
    Close,
    /// `{{> name}}`
    Partial,
    /// `{{* name}}`
    Decorator,
    /// `{{! words }}`
    Comment,
}

/// A tag; `body` is what stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) kind: Kind,
    pub(super) body: String,
    pub(super) at: At,
    /// Of an include that stands in a line of its own: the white space before it. Of a block's end: nothing.
    pub(super) indent: Option<String>,
    /// `~` at its begin and its end.
    strip: Strip,
}

type Strip = (bool, bool);

impl Tag {
    pub(super) fn new(kind: Kind, body: impl Into<String>, at: At) -> Self {
        Self { kind, body: body.into(), at, indent: None, strip: (false, false) }
    }

    /// The name that it begins with.
    pub(super) fn name(&self) -> &str {
        let end =
            self.body.find(|c: char| c.is_whitespace() || c == '(').unwrap_or(self.body.len());
        &self.body[..end]
    }
}

/// A piece of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(Text),
    Tag(Tag),
    Block(Block),
}

impl Node {
    fn text(&mut self) -> Option<&mut Text> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A text, less the white space that was taken away.
#[derive(Debug, Clone)]
pub(super) struct Text {
    original: String,
    at: At,
    begin: usize,
    end: usize,
    is_left_stripped: bool,
    is_right_stripped: bool,
}

impl Text {
    fn new(original: String, at: At) -> Self {
        let end = original.len();
        Self { original, at, begin: 0, end, is_left_stripped: false, is_right_stripped: false }
    }

    pub(super) fn at(&self) -> At {
        At { offset: self.at.offset + self.begin, ..self.at }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.original[self.begin..self.end]
    }
}

/// A block with the pieces in it.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) open: Tag,
    pub(super) body: Rc<Vec<Node>>,
    pub(super) otherwise: Option<Otherwise>,
    pub(super) close: Tag,
    /// Of a raw block: its text has no tags.
    pub(super) is_raw: bool,
    close_strip: Strip,
}

/// What a block has after `{{else}}`.
#[derive(Debug, Clone)]
pub(super) struct Otherwise {
    pub(super) tag: Tag,
    /// The one block of an `{{else if}}`; its `open` is the tag.
    pub(super) is_chain: bool,
    pub(super) body: Rc<Vec<Node>>,
}

/// Reads a file.
///
/// # Errors
/// The first fault.
pub(super) fn parse(text: &str, file: usize, how: How) -> Result<Vec<Node>, Fault> {
    let mut tokens = tokens(text, file)?;
    if how == How::Markup {
        tokens = without_comments(tokens);
    }
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), depth: 0 };
    let (mut nodes, end) = parser.body()?;
    if let Some(tag) = end {
        let body = &tag.body;
        return Err(Fault::new(
            tag.at,
            match tag.kind {
                Kind::Close => format!("{{{{/{body}}}}} closes nothing"),
                _ => format!("{{{{{body}}}}} stands in no block"),
            },
        ));
    }
    if how != How::Flat {
        strip_body(&mut nodes, true);
    }
    Ok(nodes)
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Text,
    /// HTML or MJML, whose comments are for its authors.
    Markup,
    /// What was written by [`super::include::print`]: white space is as it is printed.
    Flat,
}

enum Token {
    Text(String, At),
    Tag(Tag),
    Raw { open: Tag, text: String, close: Tag },
}

fn tokens(text: &str, file: usize) -> Result<Vec<Token>, Fault> {
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
fn without_comments(tokens: Vec<Token>) -> Vec<Token> {
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

struct Parser<I: Iterator<Item = Token>> {
    tokens: std::iter::Peekable<I>,
    depth: usize,
}

impl<I: Iterator<Item = Token>> Parser<I> {
    /// The pieces until a tag that ends a body, and that tag.
    fn body(&mut self) -> Result<(Vec<Node>, Option<Tag>), Fault> {
        let mut nodes = Vec::new();
        while let Some(token) = self.tokens.next() {
            match token {
                Token::Text(text, at) => nodes.push(Node::Text(Text::new(text, at))),
                Token::Raw { open, text, close } => nodes.push(Node::Block(Block {
                    body: Rc::new(vec![Node::Text(Text::new(text, open.at))]),
                    open,
                    otherwise: None,
                    close,
                    is_raw: true,
                    close_strip: (false, false),
                })),
                Token::Tag(tag) => match tag.kind {
                    Kind::Close | Kind::Else => return Ok((nodes, Some(tag))),
                    Kind::Open | Kind::OpenInverse | Kind::OpenPartial | Kind::Inline => {
                        nodes.push(Node::Block(self.block(tag)?));
                    }
                    _ => nodes.push(Node::Tag(tag)),
                },
            }
        }
        Ok((nodes, None))
    }

    fn block(&mut self, open: Tag) -> Result<Block, Fault> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(Fault::new(open.at, format!("its blocks nest deeper than {MAX_NESTING}")));
        }
        let (body, end) = self.body()?;
        let mut after = self.after(&open, end)?;
        self.depth -= 1;
        let name = if open.kind == Kind::Inline { "inline" } else { open.name() };
        if after.close.body != name {
            let closed = &after.close.body;
            return Err(Fault::new(
                after.close.at,
                format!("{{{{#{name}}}}} is closed by {{{{/{closed}}}}}"),
            ));
        }
        after.chain_strips();
        let close_strip = after.close.strip;
        Ok(Block {
            open,
            body: Rc::new(body),
            otherwise: after.otherwise,
            close: after.close,
            is_raw: false,
            close_strip,
        })
    }

    /// What follows the first body of a block.
    fn after(&mut self, open: &Tag, end: Option<Tag>) -> Result<After, Fault> {
        let Some(tag) = end else {
            let body = &open.body;
            return Err(Fault::new(open.at, format!("{{{{#{body}}}}} is never closed")));
        };
        if tag.kind == Kind::Close {
            return Ok(After { otherwise: None, close: tag });
        }
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(Fault::new(tag.at, format!("its blocks nest deeper than {MAX_NESTING}")));
        }
        let (body, end) = self.body()?;
        let is_chain = tag.body != "else";
        if !is_chain && end.as_ref().is_some_and(|end| end.kind == Kind::Else) {
            return Err(Fault::new(tag.at, "nothing but the end can follow {{else}}"));
        }
        let mut after = self.after(open, end)?;
        self.depth -= 1;
        let body = if is_chain {
            let close_strip = after.otherwise.as_ref().map_or((false, false), |it| it.tag.strip);
            vec![Node::Block(Block {
                open: Tag { body: tag.body["else".len()..].trim().to_owned(), ..tag.clone() },
                body: Rc::new(body),
                otherwise: after.otherwise.take(),
                close: after.close.clone(),
                is_raw: false,
                close_strip,
            })]
        } else {
            body
        };
        after.otherwise = Some(Otherwise { tag, is_chain, body: Rc::new(body) });
        Ok(after)
    }
}

struct After {
    otherwise: Option<Otherwise>,
    close: Tag,
}

impl After {
    /// The first block of a chain ends as the whole does.
    fn chain_strips(&mut self) {
        if let Some(otherwise) = &mut self.otherwise
            && otherwise.is_chain
            && let Some(Node::Block(block)) = Rc::make_mut(&mut otherwise.body).first_mut()
        {
            block.close_strip = self.close.strip;
        }
    }
}

/// How a piece stands in its body.
#[derive(Default)]
struct Standing {
    strip: Strip,
    open: bool,
    close: bool,
    inline: bool,
}

fn strip_body(nodes: &mut [Node], is_root: bool) {
    for index in 0..nodes.len() {
        let Some(standing) = strip_node(&mut nodes[index]) else { continue };
        let after_line = ends_line(&nodes[..index], is_root);
        let before_line = begins_line(&nodes[index + 1..], is_root);
        if standing.strip.1 {
            omit_begin(nodes.get_mut(index + 1), true);
        }
        if standing.strip.0 {
            omit_end(index.checked_sub(1).and_then(|index| nodes.get_mut(index)), true);
        }
        let before = index.checked_sub(1);
        if standing.inline && after_line && before_line {
            omit_begin(nodes.get_mut(index + 1), false);
            let indent = omit_end(before.and_then(|index| nodes.get_mut(index)), false);
            if let Node::Tag(tag) = &mut nodes[index] {
                tag.indent = Some(indent.unwrap_or_default());
            }
        }
        if standing.open && after_line {
            if let Node::Block(block) = &mut nodes[index] {
                omit_begin(block.program().first_mut(), false);
            }
            omit_end(before.and_then(|index| nodes.get_mut(index)), false);
        }
        if standing.close && before_line {
            omit_begin(nodes.get_mut(index + 1), false);
            if let Node::Block(block) = &mut nodes[index] {
                block.close.indent = Some(String::new());
                let last = match &mut block.otherwise {
                    Some(otherwise) => Rc::make_mut(&mut otherwise.body).last_mut(),
                    None => block.program().last_mut(),
                };
                omit_end(last, false);
            }
        }
    }
}

impl Block {
    fn program(&mut self) -> &mut Vec<Node> {
        Rc::make_mut(&mut self.body)
    }
}

fn strip_node(node: &mut Node) -> Option<Standing> {
    match node {
        Node::Text(_) => None,
        Node::Tag(tag) => {
            let inline = matches!(tag.kind, Kind::Partial | Kind::Comment);
            Some(Standing { strip: tag.strip, inline, ..Standing::default() })
        }
        Node::Block(block) => Some(strip_block(block)),
    }
}

fn strip_block(block: &mut Block) -> Standing {
    strip_body(block.program(), false);
    if let Some(otherwise) = &mut block.otherwise {
        strip_body(Rc::<Vec<Node>>::make_mut(&mut otherwise.body), false);
    }
    let opens_line = begins_line(&block.body, false);
    let closes_line = match &block.otherwise {
        None => ends_line(&block.body, false),
        Some(otherwise) => ends_line(first_of(otherwise), false),
    };
    let strip =
        if block.is_raw { (false, false) } else { (block.open.strip.0, block.close_strip.1) };
    if block.open.strip.1 {
        omit_begin(block.program().first_mut(), true);
    }
    let body = Rc::make_mut(&mut block.body);
    match &mut block.otherwise {
        Some(otherwise) => {
            let between = otherwise.tag.strip;
            if between.0 {
                omit_end(body.last_mut(), true);
            }
            let is_alone = ends_line(body, false) && begins_line(first_of(otherwise), false);
            if between.1 {
                omit_begin(first_of_mut(otherwise).first_mut(), true);
            }
            if block.close_strip.0 {
                omit_end(first_of_mut(otherwise).last_mut(), true);
            }
            if is_alone {
                omit_end(body.last_mut(), false);
                omit_begin(first_of_mut(otherwise).first_mut(), false);
            }
        }
        None if block.close_strip.0 => {
            omit_end(body.last_mut(), true);
        }
        None => {}
    }
    Standing { strip, open: opens_line, close: closes_line, inline: false }
}

/// The body after the first `{{else}}`.
fn first_of(otherwise: &Otherwise) -> &[Node] {
    match otherwise.body.first() {
        Some(Node::Block(block)) if otherwise.is_chain => &block.body,
        _ => &otherwise.body,
    }
}

fn first_of_mut(otherwise: &mut Otherwise) -> &mut Vec<Node> {
    let is_chain = otherwise.is_chain;
    let body = Rc::make_mut(&mut otherwise.body);
    if is_chain && matches!(body.first(), Some(Node::Block(_))) {
        let Some(Node::Block(block)) = body.first_mut() else { unreachable!() };
        return block.program();
    }
    body
}

fn trailing_space(text: &str) -> &str {
    &text[text.trim_end().len()..]
}

fn leading_space(text: &str) -> &str {
    &text[..text.len() - text.trim_start().len()]
}

/// Whether the pieces before a tag end a line.
fn ends_line(before: &[Node], is_root: bool) -> bool {
    match before {
        [] => is_root,
        [siblings @ .., Node::Text(text)] => {
            let all_space = siblings.is_empty() && is_root && text.original.trim().is_empty();
            all_space || trailing_space(&text.original).contains('\n')
        }
        _ => false,
    }
}

/// Whether the pieces after a tag begin a line.
fn begins_line(after: &[Node], is_root: bool) -> bool {
    match after {
        [] => is_root,
        [Node::Text(text), siblings @ ..] => {
            let all_space = siblings.is_empty() && is_root && text.original.trim().is_empty();
            all_space || leading_space(&text.original).contains('\n')
        }
        _ => false,
    }
}

/// Takes white space away at a text's begin: all of it, or the rest of the line.
fn omit_begin(node: Option<&mut Node>, all: bool) {
    let Some(text) = node.and_then(Node::text) else { return };
    if !all && text.is_right_stripped {
        return;
    }
    let value = text.as_str();
    let rest = if all {
        value.trim_start()
    } else {
        let rest = value.trim_start_matches([' ', '\t']);
        rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix(['\n', '\r'])).unwrap_or(rest)
    };
    let begin = text.end - rest.len();
    text.is_right_stripped = begin != text.begin;
    text.begin = begin;
}

/// Takes white space away at a text's end: all of it, or what stands in the last line, which it gives.
fn omit_end(node: Option<&mut Node>, all: bool) -> Option<String> {
    let text = node.and_then(Node::text)?;
    if !all && text.is_left_stripped {
        return None;
    }
    let value = text.as_str();
    let rest = if all { value.trim_end() } else { value.trim_end_matches([' ', '\t']) };
    let end = text.begin + rest.len();
    text.is_left_stripped = end != text.end;
    text.end = end;
    let line = text.original.trim_end_matches([' ', '\t']).len();
    text.is_left_stripped.then(|| text.original[line..].to_owned())
}
