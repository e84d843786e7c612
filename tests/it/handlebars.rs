//! Templates beside handlebars.js: random ones over the language that both have, which must come out the same, and a
//! table of what differs, which `docs/templates.md` must show.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use usher::{
    config::{self, Environment},
    event::Sources,
    routing::RoutingTable,
    template::{Globals, Templates, sample, source::Files},
};

use crate::support::exported;

/// A template, what it includes, and what it is rendered with.
struct Case {
    template: String,
    partials: Vec<(String, String)>,
    data: Value,
    is_html: bool,
}

/// What the templates of all cases can name.
const VARIABLES: &str = r#"
    a = "text"
    b = "text"
    n = "integer"
    z = "integer"
    f = "text"
    e = "text"
    xs = ["text"]
    none = ["text"]
    rows = [{ k = "text", q = "integer", f = "text", tags = ["text"], sub = { p = "text", q = "text" } }]
    obj = { p = "text", n = "integer", deep = { r = "text", list = ["text"] } }
    map = "object"
    amount = "amount"
    half = "text"
    which = "text"
    unsorted = "object"
"#;

/// Renders with handlebars.js: the text, or why not.
fn in_javascript(cases: &[Case]) -> Vec<Result<String, String>> {
    let input = cases.iter().map(|case| {
        let partials: HashMap<_, _> = case.partials.iter().cloned().collect();
        json!({"template": case.template, "partials": partials, "data": case.data})
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handlebars/oracle.js");
    let mut child = Command::new(exported("TEST_NODE"))
        .arg(script)
        .env("NODE_PATH", exported("TEST_HANDLEBARS"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("TEST_NODE");
    // Not every publisher sorts its names.
    let sorted = r#""unsorted":{"a":1,"b":2}"#;
    let input = input.collect::<Value>().to_string().replace(sorted, r#""unsorted":{"b":2,"a":1}"#);
    child.stdin.take().expect("it was piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let results: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let result = |result: &Value| match result["text"].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(result["error"].as_str().unwrap_or_default().to_owned()),
    };
    results.iter().map(result).collect()
}

/// Renders with usher: the text, or the first fault.
fn in_usher(cases: &[Case]) -> Vec<Result<String, String>> {
    let mut routes = "[queues.q]\nname = \"q\"\nbind = []\n".to_owned();
    let mut files = Files::new();
    for (index, case) in cases.iter().enumerate() {
        let (channel, recipient, part) =
            if case.is_html { ("email", "email", "html") } else { ("sms", "user_phone", "sms") };
        write!(
            routes,
            "[[route]]\nname = \"r{index}\"\nevent = \"e{index}\"\nqueue = \"q\"\nchannel = \"{channel}\"\n\
             template = \"t{index}\"\nrecipient = {{ field = \"{recipient}\" }}\npriority = \"medium\"\n\
             [route.optional]\n{VARIABLES}"
        )
        .expect("a String");
        let mut file = |name: String, text: &str| {
            files.insert(format!("t{index}/{name}.hbs"), text.to_owned());
        };
        for language in ["en", "es"] {
            file(format!("{language}.{part}"), &case.template);
            if case.is_html {
                file(format!("{language}.subject"), "s");
                file(format!("{language}.txt"), "t");
            }
        }
        for (name, text) in &case.partials {
            file(format!("{name}.{part}"), text);
        }
    }
    let routing = RoutingTable::parse(&routes, &HashMap::new()).expect("valid routes");
    let environment: Environment = [("SIMULATE", "always")].into_iter().collect();
    let (settings, _) = config::load(None, &environment).expect("the defaults are valid");
    let templates = match Templates::compile(&files, &routing, Globals::new(&settings)) {
        Ok(templates) => templates,
        Err(faults) if cases.len() == 1 => return vec![Err(faults[0].clone())],
        // Which one it is.
        Err(_) => return cases.chunks(1).flat_map(in_usher).collect(),
    };
    let sources = Sources::new(&settings).expect("no file is named");
    let render = |(index, case): (usize, &Case)| {
        let mut event = case.data.clone();
        event["event_type"] = format!("e{index}").into();
        let event = sample(&event.to_string()).expect("an event");
        let route = routing.route(&format!("r{index}")).expect("its route");
        let variables = route.variables(&event, &sources, "en").expect("complete");
        let rendered = templates.render(route, &variables, &event);
        let rendered = rendered.map_err(|error| error.to_string())?;
        Ok(if case.is_html { rendered.html } else { rendered.text })
    };
    cases.iter().enumerate().map(render).collect()
}

/// HTML with its references read: the two write them differently.
fn read_references(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once('&') {
        text.push_str(before);
        let (name, after) = after.split_once(';').expect("a reference ends");
        let number = name.strip_prefix('#').map(|digits| match digits.strip_prefix('x') {
            Some(digits) => u32::from_str_radix(digits, 16).expect("digits"),
            None => digits.parse().expect("digits"),
        });
        text.push(match (name, number) {
            ("amp", _) => '&',
            ("lt", _) => '<',
            ("gt", _) => '>',
            ("quot", _) => '"',
            (_, Some(number)) => char::from_u32(number).expect("a character"),
            _ => panic!("&{name};"),
        });
        rest = after;
    }
    text + rest
}

fn data() -> Value {
    json!({
        "a": "<Ana & \"Bo\">", "b": "ma\u{f1}ana = 'x`", "n": 3, "z": 0, "f": false, "e": "",
        "xs": ["x0", "x1", "x2"], "none": [],
        "rows": [
            {"k": "k0", "q": 0, "f": true, "tags": ["t0", "t1"], "sub": {"p": "p0", "q": "q0"}},
            {"k": "k1", "q": 7, "f": false, "tags": [], "sub": {"p": "p1", "q": "q1"}},
        ],
        "obj": {"p": "op", "n": 5, "deep": {"r": "or", "list": ["l0", "l1"]}},
        "map": {"m0": "v0", "m1": 4}, "amount": 25.5, "half": 25.0, "which": "p", "unsorted": {"a": 1, "b": 2},
        "email": "ana@example.com", "user_phone": "+573001234567", "event_id": "1",
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Type {
    Root,
    Row,
    Sub,
    Object,
    Deep,
    Text,
    Map,
    Texts,
    Rows,
}

impl Type {
    fn fields(self) -> &'static [(&'static str, Self)] {
        use Type::{Deep, Map, Object, Root, Row, Rows, Sub, Text, Texts};
        match self {
            Root => &[
                ("a", Text),
                ("b", Text),
                ("n", Text),
                ("z", Text),
                ("f", Text),
                ("e", Text),
                ("xs", Texts),
                ("none", Texts),
                ("rows", Rows),
                ("obj", Object),
                ("map", Map),
            ],
            Row => &[("k", Text), ("q", Text), ("f", Text), ("tags", Texts), ("sub", Sub)],
            Sub => &[("p", Text), ("q", Text)],
            Object => &[("p", Text), ("n", Text), ("deep", Deep)],
            Deep => &[("r", Text), ("list", Texts)],
            Text | Map | Texts | Rows => &[],
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Rows => Self::Row,
            _ => Self::Text,
        }
    }
}

/// A block that changes what names mean.
struct Scope {
    this: Type,
    names: Vec<(String, Type)>,
    is_list: bool,
}

/// Writes random templates. The same seed gives the same template.
struct Author {
    state: u64,
    scopes: Vec<Scope>,
    partials: Vec<(String, String)>,
    inline: Vec<(String, Type)>,
    names: usize,
    /// Whether the caller's `@index` and contexts are out of reach.
    in_partial: bool,
}

impl Author {
    fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let scopes = vec![Scope { this: Type::Root, names: vec![], is_list: false }];
        let (partials, inline) = (vec![], vec![]);
        Self { state, scopes, partials, inline, names: 0, in_partial: false }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 33) as usize % limit
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A path to a value of this type, in one of the ways to write it.
    fn path(&mut self, wanted: Type) -> Option<String> {
        for _ in 0..12 {
            let depth = self.scopes.len();
            let names: Vec<_> = self.scopes.iter().flat_map(|scope| scope.names.clone()).collect();
            let (mut path, mut kind) = match self.below(6) {
                0 if !self.in_partial => ("@root".to_owned(), Type::Root),
                1 if depth > 1 => {
                    let ups = 1 + self.below(depth - 1);
                    (vec![".."; ups].join("/"), self.scopes[depth - 1 - ups].this)
                }
                2 if !names.is_empty() => self.pick(&names),
                _ => (String::new(), self.scopes[depth - 1].this),
            };
            for _ in 0..4 {
                if kind == wanted && (kind != Type::Text || !path.is_empty() || self.chance(50)) {
                    break;
                }
                let (step, next) = match kind {
                    Type::Texts | Type::Rows => {
                        (self.pick(&["[0]", "[1]", "[9]"]).to_owned(), kind.item())
                    }
                    _ if kind.fields().is_empty() => break,
                    _ => {
                        let (name, next) = self.pick(kind.fields());
                        (self.pick(&[name.to_owned(), format!("[{name}]")]), next)
                    }
                };
                // A row that is not there has no fields in JavaScript either.
                let dot = self.pick(&[".", "/"]);
                path = match path.as_str() {
                    "" => self.pick(&[step.clone(), format!("this.{step}"), format!("./{step}")]),
                    ".." => format!("../{step}"),
                    up if up.ends_with("..") => format!("{up}/{step}"),
                    _ => format!("{path}{dot}{step}"),
                };
                kind = next;
            }
            if kind == wanted && wanted != Type::Root {
                return Some(match path.as_str() {
                    "" => self.pick(&["this", "."]).to_owned(),
                    _ => path,
                });
            }
        }
        None
    }

    /// A value that can be printed or be a condition.
    fn value(&mut self) -> String {
        let lists = self.scopes.iter().filter(|scope| scope.is_list).count();
        if lists > 0 && !self.in_partial && self.chance(25) {
            let up = if lists > 1 && self.chance(40) { "../" } else { "" };
            return format!("@{up}{}", self.pick(&["index", "first", "last", "key"]));
        }
        self.path(Type::Text).unwrap_or_else(|| "@root.a".to_owned())
    }

    fn condition(&mut self, depth: usize) -> String {
        match self.below(8) {
            0 => self.path(Type::Texts).unwrap_or_else(|| "@root.xs".to_owned()),
            1 => self.pick(&["true", "false", "0", "1", "\"\"", "'x'", "null"]).to_owned(),
            2 if depth > 0 => format!("(not {})", self.condition(depth - 1)),
            3 if depth > 0 => {
                let helper = self.pick(&["and", "or"]);
                format!("({helper} {} {})", self.condition(depth - 1), self.condition(depth - 1))
            }
            4 => format!(
                "({} {} {})",
                self.pick(&["eq", "ne"]),
                self.value(),
                self.pick(&["'k1'", "\"x0\"", "\"op\""])
            ),
            5 => format!(
                "(lookup {} {})",
                self.path(Type::Texts).unwrap_or_else(|| "@root.xs".into()),
                self.pick(&["0", "7", "'1'"])
            ),
            _ => self.value(),
        }
    }

    fn tag(&mut self, inner: &str) -> String {
        let (left, right) = (self.chance(10), self.chance(10));
        let tilde = |is: bool| if is { "~" } else { "" };
        format!("{{{{{}{inner}{}}}}}", tilde(left), tilde(right))
    }

    fn words(&mut self) -> String {
        let words = [
            "\n", "\n\n", " ", "  ", "\t", "text", "a b", ".\n", "\n  ", " }} ", "{ ", "(x)",
            "\\ ", "é",
        ];
        (0..1 + self.below(3)).map(|_| self.pick(&words)).collect()
    }

    fn body(&mut self, depth: usize) -> String {
        (0..1 + self.below(4)).map(|_| self.piece(depth)).collect()
    }

    fn within(&mut self, scope: Scope, depth: usize) -> String {
        self.scopes.push(scope);
        let body = self.body(depth);
        self.scopes.pop();
        body
    }

    fn otherwise(&mut self, depth: usize) -> String {
        match self.below(3) {
            0 => String::new(),
            1 => {
                let tag = self.pick(&["else", "^"]);
                self.tag(tag) + &self.body(depth)
            }
            _ => {
                let condition = self.condition(1);
                let tag = self.tag(&format!("else if {condition}"));
                let chained = self.body(depth);
                let rest = if self.chance(50) {
                    self.tag("else") + &self.body(depth)
                } else {
                    String::new()
                };
                tag + &chained + &rest
            }
        }
    }

    /// Whether no block around is about such a value: to JavaScript the very same value is no other context.
    fn is_new(&self, kind: Type) -> bool {
        self.scopes.iter().all(|scope| scope.this != kind)
    }

    fn new_name(&mut self) -> String {
        self.names += 1;
        format!("name{}", self.names)
    }

    fn piece(&mut self, depth: usize) -> String {
        if depth == 0 || self.chance(30) {
            return match self.below(8) {
                0 | 1 => {
                    let value = self.value();
                    self.tag(&value)
                }
                2 => self
                    .pick(&["{{! a }}", "{{~! a ~}}", "{{!-- }} {{b}} --}}", "{{!-- a --~}}"])
                    .to_owned(),
                3 => self
                    .pick(&["\\{{a}}", "\\\\{{@root.a}}", "{{{{raw}}}} {{a}} {{#if}} {{{{/raw}}}}"])
                    .to_owned(),
                4 => {
                    let list = self.path(Type::Texts).unwrap_or_else(|| "@root.xs".to_owned());
                    let tag = self.pick(&[format!("lookup {list} 1"), format!("{list}.length")]);
                    let tag = if list == "." || list.ends_with("..") {
                        "@root.a".to_owned()
                    } else {
                        tag
                    };
                    self.tag(&tag)
                }
                _ => self.words(),
            };
        }
        let depth = depth - 1;
        let this = self.scopes[self.scopes.len() - 1].this;
        let line = if self.chance(40) { "\n" } else { "" };
        match self.below(9) {
            0 | 1 => {
                let condition = self.condition(2);
                let zero = self.pick(&["", "", " includeZero=true", " includeZero=false"]);
                let name = self.pick(&["if", "if", "unless"]);
                let open = self.tag(&format!("#{name} {condition}{zero}"));
                let (body, rest) = (self.body(depth), self.otherwise(depth));
                format!("{line}{open}{line}{body}{rest}{}{line}", self.tag(&format!("/{name}")))
            }
            2 | 3 => {
                let kind = self.pick(&[Type::Texts, Type::Rows, Type::Map]);
                let item = kind.item();
                let list = self.path(kind).filter(|_| self.is_new(item));
                let Some(list) = list else { return self.words() };
                let mut names = Vec::new();
                let mut given = String::new();
                if self.chance(40) {
                    names.push((self.new_name(), item));
                    if self.chance(50) {
                        names.push((self.new_name(), Type::Text));
                    }
                    let written: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
                    given = format!(" as |{}|", written.join(" "));
                }
                let open = self.tag(&format!("#each {list}{given}"));
                let body = self.within(Scope { this: item, names, is_list: true }, depth);
                let rest = self.otherwise(depth);
                format!("{line}{open}{line}{body}{rest}{}{line}", self.tag("/each"))
            }
            4 => {
                let kind = self.pick(&[Type::Object, Type::Deep, Type::Sub, Type::Row]);
                let path = self.path(kind).filter(|path| !is_this(path) && self.is_new(kind));
                let Some(path) = path else { return self.words() };
                let names = if self.chance(30) { vec![(self.new_name(), kind)] } else { vec![] };
                let given =
                    names.first().map(|(name, _)| format!(" as |{name}|")).unwrap_or_default();
                let open = self.tag(&format!("#with {path}{given}"));
                let body = self.within(Scope { this: kind, names, is_list: false }, depth);
                let rest = self.otherwise(depth);
                format!("{line}{open}{line}{body}{rest}{}{line}", self.tag("/with"))
            }
            5 if matches!(this, Type::Root | Type::Row | Type::Object | Type::Deep) => {
                let lists = this.fields().iter().filter(|field| {
                    matches!(field.1, Type::Texts | Type::Rows | Type::Sub | Type::Deep)
                });
                let lists: Vec<_> = lists.copied().collect();
                let (name, kind) = self.pick(&lists);
                let is_list = matches!(kind, Type::Texts | Type::Rows);
                if self.chance(25) {
                    let open = self.tag(&format!("^{name}"));
                    return format!("{open}{}{}", self.body(depth), self.tag(&format!("/{name}")));
                }
                let this = if is_list { kind.item() } else { kind };
                if !self.is_new(this) {
                    return self.words();
                }
                let open = self.tag(&format!("#{name}"));
                let body = self.within(Scope { this, names: vec![], is_list }, depth);
                let rest = if self.chance(30) {
                    self.tag("else") + &self.body(depth)
                } else {
                    String::new()
                };
                format!("{open}{line}{body}{rest}{}", self.tag(&format!("/{name}")))
            }
            6 | 7 if !self.in_partial => self.partial(depth, this),
            _ => self.words() + &self.piece(depth),
        }
    }

    /// Another author for what can't see the blocks around it.
    fn apart<T>(&mut self, scope: Scope, write: impl FnOnce(&mut Self) -> T) -> T {
        let scopes = std::mem::replace(&mut self.scopes, vec![scope]);
        let in_partial = std::mem::replace(&mut self.in_partial, true);
        let written = write(self);
        (self.scopes, self.in_partial) = (scopes, in_partial);
        written
    }

    fn partial(&mut self, depth: usize, this: Type) -> String {
        let mut given = String::new();
        let mut names = Vec::new();
        let mut inner = this;
        if self.chance(35) {
            let kind = self.pick(&[Type::Row, Type::Object, Type::Sub]);
            if let Some(path) = self.path(kind).filter(|path| !is_this(path) && !path.contains('9'))
            {
                given = format!(" {path}");
                inner = kind;
            }
        }
        // A text that is given values becomes an object in JavaScript.
        if inner != Type::Text && self.chance(40) {
            names.push((format!("given{}", self.below(3)), Type::Text));
            let value = self.value();
            write!(given, " {}={value}", names[0].0).expect("a String");
        }
        // What is given stands among the fields, not in blocks within.
        let shown = names.first().map(|(name, _)| format!("{{{{{name}}}}}")).unwrap_or_default();
        let name = format!("p{}", self.partials.len() + self.names);
        self.names += 1;
        let mut body = self.apart(Scope { this: inner, names: vec![], is_list: false }, |author| {
            author.body(depth)
        });
        if !names.is_empty() && body.contains("{{.}}")
            || body.contains("{{this}}") && !names.is_empty()
        {
            body = "no this".to_owned();
        }
        let body = format!("{shown}{body}");
        match self.below(4) {
            0 => {
                self.partials.push((name.clone(), format!("{body}|\n")));
                let indent = self.pick(&["", "  ", "\t"]);
                format!("|\n{indent}{{{{> {name}{given}}}}}\n|")
            }
            1 => {
                self.partials.push((name.clone(), format!("{body}|")));
                format!("[{{{{> {name}{given}}}}}]")
            }
            2 => {
                let call = self.tag(&format!("> {name}{given}"));
                self.inline.push((name.clone(), inner));
                format!("{call}{{{{#*inline \"{name}\"}}}}{body}{{{{/inline}}}}")
            }
            _ => {
                let frame = self.pick(&[
                    "<{{> @partial-block}}>",
                    "{{#if @partial-block}}({{> @partial-block}}){{/if}}",
                ]);
                self.partials.push((name.clone(), format!("{frame}|")));
                // handlebars.js renders the block to see whether there is one.
                format!("[{{{{#> {name}{given}}}}}x{body}{{{{/{name}}}}}]")
            }
        }
    }
}

fn is_this(path: &str) -> bool {
    matches!(path, "this" | "." | "..") || path.ends_with("/..")
}

fn case(seed: u64) -> Case {
    let mut author = Author::new(seed);
    let template = author.body(4);
    Case { template, partials: author.partials, data: data(), is_html: seed.is_multiple_of(3) }
}

#[test]
fn random_templates_come_out_as_with_handlebars_js() {
    let mut differences = Vec::new();
    let (mut refused, mut failed) = (0, 0);
    for seeds in (0..3_000_u64).collect::<Vec<_>>().chunks(100) {
        let cases: Vec<Case> = seeds.iter().map(|seed| case(*seed)).collect();
        let results = in_javascript(&cases).into_iter().zip(in_usher(&cases));
        for ((seed, case), (wanted, found)) in seeds.iter().zip(&cases).zip(results) {
            let same = match (&wanted, &found) {
                (Ok(wanted), Ok(found)) if case.is_html => {
                    read_references(wanted) == read_references(found)
                }
                (Ok(wanted), Ok(found)) => read_references(wanted) == *found,
                (Ok(_), Err(_)) => {
                    refused += 1;
                    false
                }
                (Err(_), _) => {
                    failed += 1;
                    false
                }
            };
            if !same {
                differences.push(format!(
                    "{seed}: {:?} {:?}\n  handlebars.js {wanted:?}\n  usher         {found:?}",
                    case.template, case.partials
                ));
            }
        }
    }
    // The shortest tell most.
    differences.sort_by_key(String::len);
    let shown = differences.iter().take(12).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(
        differences.is_empty(),
        "{} differ, of these usher refuses {refused} and handlebars.js {failed}:\n{shown}",
        differences.len()
    );
}

/// What comes out otherwise, or is refused: a template, the partial `p` that it includes, and why.
const DIFFERENCES: [(&str, &str, &str); 31] = [
    ("{{{a}}}", "", "a value is never markup"),
    ("{{lost}}", "", "names are declared"),
    ("{{#each xs}}{{a}}{{/each}}", "", "names are declared, in items too"),
    ("{{map.m0}}", "", "names are declared, in objects too"),
    ("{{../a}}", "", "nothing is around the template"),
    ("{{@index}}", "", "no list is around it"),
    ("{{log a}}", "", "nothing writes to the log"),
    ("{{amount}}", "", "a value is printed by its type"),
    ("{{xs}}", "", "a list is printed by its type"),
    ("{{half}}", "", "a number has the digits that were sent"),
    ("{{obj}}", "", "an object says nothing"),
    ("{{#each unsorted}}{{@key}}{{/each}}", "", "names go by the alphabet"),
    ("{{xs.1}}", "", "an item needs no brackets"),
    ("{{\"a\"}}", "", "a text is no name"),
    ("{{#each xs as |x i z|}}{{x}}{{/each}}", "", "a block gives two names at most"),
    ("{{#each a}}x{{/each}}", "", "`each` goes over lists and objects"),
    ("{{#a}}x{{/a}}", "", "a section is about a list or an object"),
    ("{{^none}}x{{else}}y{{/none}}", "", "`{{^name}}` has no `{{else}}`"),
    (
        "{{#each rows}}{{#each @root.rows}}{{../k}}{{/each}}{{/each}}",
        "",
        "each block is a step for `../`, also if it is about the same value",
    ),
    ("{{> (lookup this 'which')}}", "x", "an include is known at load"),
    ("{{> p}}", "{{#if none}}{{> p}}{{/if}}", "an include never includes itself"),
    ("[{{> p}}]", "x\n", "a file's last line end counts if the include has its own line"),
    ("{{#each xs}}{{> p}}{{/each}}", "{{../a}}", "a partial does not see what is around it"),
    (
        "{{#each xs as |x|}}{{> p}}{{/each}}",
        "{{#if @first}}{{@root.n}}{{/if}}{{x}}",
        "a partial sees the names of the blocks around it",
    ),
    ("{{> p x=1}}", "{{#with this}}{{x}}{{/with}}", "a partial that is given values has no `this`"),
    (
        "{{#> p}}{{lookup none 0}}{{/p}}",
        "{{#if @partial-block}}x{{/if}}",
        "there is a block, even if nothing comes out of it",
    ),
    ("{{> p}}\n!", "x", "every file ends with a line end"),
    (
        "{{#each xs}}{{#*inline \"p\"}}{{../a}}{{/inline}}{{> p}}{{/each}}",
        "",
        "an inline partial does not see what is around it",
    ),
    ("{{#eq n 3}}x{{/eq}}", "", "a helper that compares can be a block"),
    ("<b>{{b}}</b>", "", "HTML is ASCII"),
    ("<b>x<!-- {{a}} --></b>", "", "comments in markup don't reach the mail"),
];

#[test]
fn the_documentation_shows_every_difference() {
    let cases = DIFFERENCES.map(|(template, partial, _)| {
        let partials = [("p".to_owned(), partial.to_owned())];
        let partials = partials.into_iter().filter(|(_, text)| !text.is_empty()).collect();
        let is_html = template.starts_with('<');
        Case { template: template.to_owned(), partials, data: data(), is_html }
    });
    let code = |text: &str| match text {
        "" => "nothing".to_owned(),
        text => format!("`{}`", text.replace('\n', "⏎").replace('|', "\\|")),
    };
    let shown = |result: &Result<String, String>| match result {
        Ok(text) => code(text),
        Err(_) => "refused".to_owned(),
    };
    let mut table =
        "| template | `p` | handlebars.js | usher | why |\n|---|---|---|---|---|\n".to_owned();
    let results = in_javascript(&cases).into_iter().zip(in_usher(&cases));
    for ((template, partial, why), (theirs, ours)) in DIFFERENCES.into_iter().zip(results) {
        assert_ne!(
            theirs.clone().ok(),
            ours.clone().ok(),
            "{template} makes no difference: {ours:?}"
        );
        let partial = if partial.is_empty() { String::new() } else { code(partial) };
        let (template, theirs, ours) = (code(template), shown(&theirs), shown(&ours));
        writeln!(table, "| {template} | {partial} | {theirs} | {ours} | {why} |")
            .expect("a String");
    }
    let page = include_str!("../../docs/templates.md");
    assert!(page.contains(&table), "docs/templates.md has to hold this table:\n{table}");
}
