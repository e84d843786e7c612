//! Parses a template: its texts and tags, and the blocks that they make.
//!
//! The `handlebars` crate parses what stands within a tag (compile.rs). Tags themselves are found here: includes
//! are put in before MJML becomes HTML, faults name a line and a column, and what nests too deep must never
//! reach a parser that recurses.

mod tokens;
mod whitespace;

use std::rc::Rc;

use self::{
    tokens::{Token, tokens, without_comments},
    whitespace::strip_body,
};

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
