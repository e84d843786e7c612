//! The white space that Handlebars takes away around tags: as in `whitespace-control.js` of Handlebars 4.7, file by
//! file.

use std::rc::Rc;

use super::{Block, Kind, Node, Otherwise, Strip};

/// How a piece stands in its body.
#[derive(Default)]
struct Standing {
    strip: Strip,
    open: bool,
    close: bool,
    inline: bool,
}

pub(super) fn strip_body(nodes: &mut [Node], is_root: bool) {
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
