//! Puts in what a template includes, so that one flat list of texts and tags is left for each part.
//!
//! MJML has to be whole before it becomes HTML, so partials are put in when a template is loaded, not when it is
//! rendered. A partial that is given values becomes a block `{{#scope …}}`, one that stands indented a block
//! `{{#indent …}}`. Partials see what handlebars.js shows them: their context, never `../` of where they stand.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use super::{
    locale_formatter::fallbacks,
    source::{Files, Markup, SHARED, Source, SourceKind},
    syntax::{self, At, Block, Fault, How, Kind, MAX_NESTING, Node, Tag, Text},
};

/// How deep includes may lie in each other.
const MAX_DEPTH: usize = 20;
/// Longest part, in bytes, with its includes; mail programs cut longer ones off anyway.
const MAX_PART_BYTES: usize = 256 * 1024;
/// Most tags of a part.
const MAX_TAGS: usize = 20_000;

/// A text or a tag of a part whose includes are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String, At),
    Tag(Tag),
}

/// The files that tags stand in, by number.
#[derive(Debug, Default)]
pub(super) struct Origins(RefCell<Vec<(String, String)>>);

impl Origins {
    fn add(&self, name: &str, text: &str) -> usize {
        let mut files = self.0.borrow_mut();
        files.push((name.to_owned(), text.to_owned()));
        files.len() - 1
    }

    /// A fault with file, line and column.
    pub(super) fn locate(&self, fault: &Fault) -> String {
        let files = self.0.borrow();
        let Some((name, text)) = files.get(fault.at.file) else { return fault.reason.clone() };
        let before = text.get(..fault.at.offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{name}:{line}:{column}: {}", fault.reason)
    }
}

/// What a template can include, and where faults in it are.
pub(super) struct Includes<'a> {
    pub(super) files: &'a Files,
    pub(super) template: &'a str,
    pub(super) language: &'a str,
    pub(super) origins: Origins,
}

impl<'a> Includes<'a> {
    pub(super) fn new(files: &'a Files, template: &'a str, language: &'a str) -> Self {
        Self { files, template, language, origins: Origins::default() }
    }

    /// The subject.
    ///
    /// # Errors
    /// The first fault.
    pub(super) fn subject(&self, source: &Source) -> Result<Vec<Piece>, Fault> {
        self.expand("subject", source, source.subject.trim_end(), false)
    }

    /// The HTML part, in the shared layout unless it is a whole mail.
    ///
    /// # Errors
    /// The first fault.
    pub(super) fn html(&self, source: &Source) -> Result<Vec<Piece>, Fault> {
        let (kind, has_layout) = match source.markup {
            Markup::Mjml if source.is_whole() => ("mjml", false),
            Markup::Mjml => ("mjml", true),
            Markup::Html | Markup::None => ("html", false),
        };
        self.expand(kind, source, &source.html, has_layout)
    }

    /// The text part; a text message has no layout.
    ///
    /// # Errors
    /// The first fault.
    pub(super) fn text(&self, source: &Source) -> Result<Vec<Piece>, Fault> {
        match source.markup {
            Markup::None => self.expand("sms", source, &source.text, false),
            Markup::Mjml | Markup::Html => self.expand("txt", source, &source.text, true),
        }
    }

    fn layout(&self, kind: &str) -> Option<(String, &str)> {
        let path = format!("{SHARED}/layout.{kind}.hbs");
        let text = self.files.get(&path)?;
        Some((format!("templates/{path}"), text))
    }

    fn expand(
        &self,
        kind: &str,
        source: &Source,
        text: &str,
        has_layout: bool,
    ) -> Result<Vec<Piece>, Fault> {
        let name = source.name_of(self.template, self.language, kind);
        let mut expansion = Expansion {
            includes: self,
            kind,
            content: (name.clone(), text.to_owned()),
            pieces: Vec::new(),
            read: RefCell::default(),
            bytes: 0,
            tags: 0,
            depth: 0,
        };
        let layout = if has_layout && !source.is_flat() { self.layout(kind) } else { None };
        let (name, text) = layout.unwrap_or((name, text));
        let how = match source.kind {
            SourceKind::Flat { is_stripped: true } => How::Flat,
            SourceKind::Flat { is_stripped: false } => How::Text,
            _ => expansion.how(),
        };
        let nodes = syntax::parse(text, self.origins.add(&name, text), how)?;
        expansion.emit(&nodes, &Rc::new(Env::default()), 0)?;
        Ok(expansion.pieces)
    }

    /// The template's own file goes before the shared one, a language's before one for all.
    fn find(&self, name: &str, kind: &str) -> Option<(String, &str)> {
        let places = [self.template, SHARED].into_iter().flat_map(|folder| {
            let own = fallbacks(self.language);
            let own = own.map(move |language| format!("{folder}/{language}.{name}.hbs"));
            own.chain([format!("{folder}/{name}.{kind}.hbs")])
        });
        places.into_iter().find_map(|path| {
            let text = self.files.get(&path)?;
            Some((path, text.as_str()))
        })
    }
}

/// What partials a piece of a template can include beside files.
#[derive(Default, Clone)]
struct Env {
    /// `{{#*inline "name"}}` of the blocks around it.
    inline: HashMap<String, Rc<Vec<Node>>>,
    /// What `{{> @partial-block}}` stands for, and what it can include.
    block: Option<(Rc<Vec<Node>>, Rc<Env>)>,
    /// The partials that it stands in.
    within: Vec<String>,
}

struct Expansion<'a> {
    includes: &'a Includes<'a>,
    kind: &'a str,
    /// What `{{> content}}` of the layout is.
    content: (String, String),
    pieces: Vec<Piece>,
    /// The files that were read, by their paths.
    read: RefCell<HashMap<String, Rc<Vec<Node>>>>,
    bytes: usize,
    tags: usize,
    depth: usize,
}

/// How a partial is called.
struct Call<'a> {
    tag: &'a Tag,
    name: String,
    arguments: &'a str,
    block: Option<&'a Rc<Vec<Node>>>,
    /// Whether it stands in a line of its own.
    is_alone: bool,
}

impl Expansion<'_> {
    /// `blocks`: how many blocks of this file change the context around these pieces.
    fn emit(&mut self, nodes: &[Node], env: &Rc<Env>, blocks: usize) -> Result<(), Fault> {
        let env = &with_inline(nodes, env)?;
        self.depth += 1;
        if self.depth > 2 * MAX_NESTING {
            return Err(Fault::new(At::default(), "its blocks and includes nest too deep"));
        }
        for node in nodes {
            match node {
                Node::Text(text) => self.text(text)?,
                Node::Tag(tag) => match tag.kind {
                    Kind::Comment => {}
                    Kind::Partial => {
                        let (name, arguments) = called(tag)?;
                        let is_alone = tag.indent.is_some();
                        let call = Call { tag, name, arguments, block: None, is_alone };
                        self.partial(&call, env, blocks)?;
                    }
                    Kind::Decorator => {
                        return Err(Fault::new(tag.at, "there are no decorators but {{#*inline}}"));
                    }
                    _ => self.tag(tag.clone(), env, blocks)?,
                },
                Node::Block(block) if block.is_raw => self.raw(block)?,
                Node::Block(block) => match block.open.kind {
                    Kind::Inline => {}
                    Kind::OpenPartial => {
                        let (name, arguments) = called(&block.open)?;
                        let tag = &block.open;
                        let body = Some(&block.body);
                        if let Some(otherwise) = &block.otherwise {
                            let reason = "a partial has no {{else}}";
                            return Err(Fault::new(otherwise.tag.at, reason));
                        }
                        let is_alone = block.close.indent.is_some();
                        let call = Call { tag, name, arguments, block: body, is_alone };
                        self.partial(&call, env, blocks)?;
                    }
                    _ => {
                        self.block(block, env, blocks)?;
                        self.push(Piece::Tag(block.close.clone()), block.close.at)?;
                    }
                },
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn block(&mut self, block: &Block, env: &Rc<Env>, blocks: usize) -> Result<(), Fault> {
        if block.open.kind != Kind::Else {
            self.tag(block.open.clone(), env, blocks)?;
        }
        let inner = blocks + usize::from(!matches!(block.open.name(), "if" | "unless"));
        self.emit(&block.body, env, inner)?;
        let Some(otherwise) = &block.otherwise else { return Ok(()) };
        self.tag(otherwise.tag.clone(), env, blocks)?;
        match otherwise.body.first() {
            Some(Node::Block(block)) if otherwise.is_chain => self.block(block, env, blocks),
            _ => self.emit(&otherwise.body, env, blocks),
        }
    }

    fn raw(&mut self, block: &Block) -> Result<(), Fault> {
        if block.open.body != "raw" {
            let name = &block.open.body;
            let reason = format!("a raw block is {{{{{{{{raw}}}}}}}}, there is no {name:?}");
            return Err(Fault::new(block.open.at, reason));
        }
        for node in block.body.iter() {
            if let Node::Text(text) = node {
                self.text(text)?;
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &Text) -> Result<(), Fault> {
        self.push(Piece::Text(text.as_str().to_owned(), text.at()), text.at())
    }

    fn partial(&mut self, call: &Call<'_>, env: &Rc<Env>, blocks: usize) -> Result<(), Fault> {
        let fault = |reason: String| Err(Fault::new(call.tag.at, reason));
        if call.name.starts_with('(') {
            return fault("which partial it is has to be known when a template is loaded".into());
        }
        let included = self.find(call, env)?;
        let mut within = env.within.clone();
        if let Some(identity) = &included.identity {
            if let Some(at) = within.iter().position(|it| it == identity) {
                let round = [&within[at..], std::slice::from_ref(identity)].concat().join(" → ");
                return fault(format!("include {:?} goes round in a circle: {round}", call.name));
            }
            within.push(identity.clone());
        }
        if within.len() > MAX_DEPTH {
            return fault(format!("its includes lie deeper in each other than {MAX_DEPTH}"));
        }
        let mut inner = (*included.env).clone();
        if included.identity.is_some() {
            inner.within = within;
            // What the block defines is for the partial.
            if let Some(body) = call.block {
                inner.block = Some((body.clone(), env.clone()));
                inner.inline.extend(inline(body)?);
            }
        }
        let mut around = Vec::new();
        if let Some(indent) = call.tag.indent.as_deref().filter(|indent| !indent.is_empty())
            && self.kind != "mjml"
        {
            around.push(("indent", format!("indent \"{indent}\"")));
        }
        if !call.arguments.is_empty() {
            around.push(("scope", format!("scope {}", call.arguments)));
        }
        for (_, body) in &around {
            self.tag(Tag::new(Kind::Open, body.clone(), call.tag.at), env, blocks)?;
        }
        let begin = self.pieces.len();
        self.emit(&included.nodes, &Rc::new(inner), 0)?;
        // A file ends with a line end, which counts where the include stands in a line of its own.
        if included.is_file
            && !call.is_alone
            && self.pieces.len() > begin
            && let Some(Piece::Text(text, _)) = self.pieces.last_mut()
            && let Some(rest) = text.strip_suffix('\n')
        {
            text.truncate(rest.strip_suffix('\r').unwrap_or(rest).len());
        }
        for (name, _) in around.iter().rev() {
            self.push(Piece::Tag(Tag::new(Kind::Close, *name, call.tag.at)), call.tag.at)?;
        }
        Ok(())
    }

    fn find(&self, call: &Call<'_>, env: &Rc<Env>) -> Result<Included, Fault> {
        let name = call.name.as_str();
        let of = |nodes: &Rc<Vec<Node>>, env: &Rc<Env>| Included {
            nodes: nodes.clone(),
            env: env.clone(),
            identity: None,
            is_file: false,
        };
        if name == "@partial-block" {
            return match (&env.block, call.block) {
                (Some((nodes, outer)), _) => Ok(of(nodes, outer)),
                (None, Some(fallback)) => Ok(of(fallback, env)),
                (None, None) => Err(Fault::new(
                    call.tag.at,
                    "the partial was included without a block: {{#> name}} … {{/name}}",
                )),
            };
        }
        if let Some(nodes) = env.inline.get(name) {
            let identity = Some(format!("{name} ({:p})", Rc::as_ptr(nodes)));
            return Ok(Included { identity, ..of(nodes, env) });
        }
        let file = if name == "content" {
            Some((self.content.0.clone(), self.content.1.as_str()))
        } else {
            let found = self.includes.find(name, self.kind);
            found.map(|(path, text)| (format!("templates/{path}"), text))
        };
        match (file, call.block) {
            (Some((path, text)), _) => {
                let nodes = match self.read.borrow().get(&path) {
                    Some(nodes) => nodes.clone(),
                    None => Rc::new(self.parse(&path, text)?),
                };
                self.read.borrow_mut().insert(path.clone(), nodes.clone());
                Ok(Included { identity: Some(path), is_file: true, ..of(&nodes, env) })
            }
            (None, Some(fallback)) => Ok(of(fallback, env)),
            (None, None) => {
                let (language, kind) = (self.includes.language, self.kind);
                Err(Fault::new(
                    call.tag.at,
                    format!(
                        "there is no include {name:?}: no {language}.{name}.hbs and no {name}.{kind}.hbs"
                    ),
                ))
            }
        }
    }

    fn parse(&self, path: &str, text: &str) -> Result<Vec<Node>, Fault> {
        // Not every editor ends a file with a line end.
        let mut text = text.strip_suffix('\n').unwrap_or(text).to_owned();
        text.push('\n');
        let file = self.includes.origins.add(path, &text);
        syntax::parse(&text, file, self.how())
    }

    fn how(&self) -> How {
        if matches!(self.kind, "mjml" | "html") { How::Markup } else { How::Text }
    }

    fn tag(&mut self, mut tag: Tag, env: &Env, blocks: usize) -> Result<(), Fault> {
        if tag.body.contains("@partial-block") {
            let has_block = if env.block.is_some() { "true" } else { "false" };
            tag.body = tag.body.replace("@partial-block", has_block);
        }
        if !env.within.is_empty() && ups(&tag.body) > blocks {
            return Err(Fault::new(
                tag.at,
                "a partial does not see what is around it: pass it as a value, {{> name value=…}}",
            ));
        }
        let at = tag.at;
        self.push(Piece::Tag(tag), at)
    }

    fn push(&mut self, piece: Piece, at: At) -> Result<(), Fault> {
        match &piece {
            Piece::Text(text, _) if text.is_empty() => return Ok(()),
            Piece::Text(text, _) => self.bytes += text.len(),
            Piece::Tag(tag) => {
                self.bytes += tag.body.len() + 4;
                self.tags += 1;
            }
        }
        self.pieces.push(piece);
        self.bounded(at)
    }

    fn bounded(&self, at: At) -> Result<(), Fault> {
        if self.bytes > MAX_PART_BYTES {
            return Err(Fault::new(at, format!("it has more than {MAX_PART_BYTES} bytes")));
        }
        if self.tags > MAX_TAGS {
            return Err(Fault::new(at, format!("it has more than {MAX_TAGS} tags")));
        }
        Ok(())
    }
}

struct Included {
    nodes: Rc<Vec<Node>>,
    env: Rc<Env>,
    /// What must not include itself.
    identity: Option<String>,
    is_file: bool,
}

/// The name that a partial is called by, and what it is given.
fn called(tag: &Tag) -> Result<(String, &str), Fault> {
    let body = tag.body.as_str();
    for (open, close) in [('"', '"'), ('\'', '\''), ('[', ']')] {
        if let Some((name, rest)) = body.strip_prefix(open).and_then(|it| it.split_once(close)) {
            return Ok((name.to_owned(), rest.trim()));
        }
    }
    if body.starts_with('(') {
        return Ok((body.to_owned(), ""));
    }
    let name = tag.name();
    if name.is_empty() {
        return Err(Fault::new(tag.at, "an include has a name: {{> name}}"));
    }
    Ok((name.to_owned(), body[name.len()..].trim()))
}

/// With what these pieces define for the whole of their block.
fn with_inline(nodes: &[Node], env: &Rc<Env>) -> Result<Rc<Env>, Fault> {
    let found = inline(nodes)?;
    if found.is_empty() {
        return Ok(env.clone());
    }
    let mut inner = (**env).clone();
    inner.inline.extend(found);
    Ok(Rc::new(inner))
}

fn inline(nodes: &[Node]) -> Result<HashMap<String, Rc<Vec<Node>>>, Fault> {
    let mut found = HashMap::new();
    for node in nodes {
        let Node::Block(block) = node else { continue };
        if block.open.kind != Kind::Inline {
            continue;
        }
        let name = block.open.body.strip_prefix("inline").map(str::trim).unwrap_or_default();
        let quoted = [('"'), ('\'')].into_iter().find_map(|quote| {
            name.strip_prefix(quote)?.strip_suffix(quote).filter(|name| !name.contains(quote))
        });
        let Some(name) = quoted else {
            return Err(Fault::new(block.open.at, "it is written {{#*inline \"name\"}}"));
        };
        found.insert(name.to_owned(), block.body.clone());
    }
    Ok(found)
}

/// How many steps up the paths of a tag lead at most.
fn ups(body: &str) -> usize {
    let words = body.split(|c: char| c.is_whitespace() || "()=|\"'".contains(c));
    let of = |word: &str| {
        let word = word.strip_prefix('@').unwrap_or(word);
        if word.starts_with("..") {
            word.split('/').take_while(|part| *part == "..").count()
        } else {
            0
        }
    };
    words.map(of).max().unwrap_or_default()
}

/// Pieces whose texts have tags between them.
pub(super) fn merged(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut merged: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match (piece, merged.last_mut()) {
            (Piece::Text(text, _), Some(Piece::Text(words, _))) => words.push_str(&text),
            (piece, _) => merged.push(piece),
        }
    }
    merged
}

/// The pieces as one text that is read as the same pieces again.
pub(super) fn print(pieces: &[Piece]) -> String {
    let mut out = String::new();
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(text, _) => {
                let before_tag = matches!(pieces.get(index + 1), Some(Piece::Tag(_)));
                if text.contains("{{") || (before_tag && text.ends_with('{')) {
                    out.extend(["{{{{raw}}}}", text, "{{{{/raw}}}}"]);
                } else {
                    out.push_str(text);
                    if before_tag && text.ends_with('\\') {
                        out.push('\\');
                    }
                }
            }
            Piece::Tag(tag) => {
                let (open, close) = match tag.kind {
                    Kind::Open => ("{{#", "}}"),
                    Kind::OpenInverse => ("{{^", "}}"),
                    Kind::Close => ("{{/", "}}"),
                    Kind::Markup => ("{{{", "}}}"),
                    _ => ("{{", "}}"),
                };
                out.extend([open, &tag.body, close]);
            }
        }
    }
    out
}
