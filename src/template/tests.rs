//! What templates can say, and what is refused: through the whole way from files to a rendered mail.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    Globals, Rendered, Templates, header, readable_on,
    source::Files,
    store::Stored,
    validate::{Trial, sample},
};
use crate::{
    config::{self, Environment},
    event::Sources,
    routing::RoutingTable,
};

/// What the templates of these tests can name.
const VARIABLES: &str = r#"
    name = "text"
    none = "text"
    flag = "text"
    amount = "amount"
    free = "amount"
    count = "integer"
    zero = "integer"
    showtime = "time"
    wait = "duration"
    seats = "list"
    nothing = "list"
    metadata = "object"
    message = "text"
    items = [{ name = "text", quantity = "integer", price = "amount", currency = "text?", tags = ["text"] }]
    person = { first = "text", address = { city = "text?" }, friends = [{ first = "text" }] }
    prices = ["amount"]
"#;

fn event() -> Map<String, Value> {
    let Value::Object(fields) = json!({
        "event_id": "1", "event_type": "e", "email": "ana@example.com", "user_phone": "+573001234567",
        "occurred_at": "2024-12-10T18:00:00Z",
        "name": "Ana <b>", "flag": false, "amount": "25.50", "free": 0, "count": 3, "zero": 0,
        "showtime": "2024-12-15T19:30:00", "wait": 900, "seats": ["A1", "A2", "B5"], "nothing": [],
        "metadata": {"k": "v", "l": 1}, "message": "a & b\n<c>",
        "items": [
            {"name": "Popcorn", "quantity": 2, "price": 12.5, "currency": "EUR", "tags": ["x", "y"]},
            {"name": "Soda", "quantity": "1", "price": "0", "tags": []},
        ],
        "person": {"first": "Ana", "address": {"city": "Cali"}, "friends": [{"first": "Bo"}, {"first": "Ci"}]},
        "prices": [1, 2.5],
    }) else {
        panic!("an object");
    };
    fields
}

struct World {
    files: Files,
    channel: &'static str,
    variables: String,
    event: Map<String, Value>,
    /// The same in both languages, unless it is among the files.
    parts: Vec<(&'static str, String)>,
}

impl World {
    /// A text message.
    fn text(text: &str) -> Self {
        Self {
            files: Files::new(),
            channel: "sms",
            variables: VARIABLES.to_owned(),
            event: event(),
            parts: vec![("sms", text.to_owned())],
        }
    }

    fn mail(part: &'static str, text: &str) -> Self {
        let parts = [("subject", "s"), ("txt", "t"), (part, text)];
        let parts = parts.map(|(part, text)| (part, text.to_owned())).into();
        Self { channel: "email", parts, ..Self::text("") }
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    fn field(mut self, name: &str, value: Value) -> Self {
        self.event.insert(name.to_owned(), value);
        self
    }

    fn routing(&self) -> RoutingTable {
        let recipient = if self.channel == "sms" { "user_phone" } else { "email" };
        let routes = format!(
            r#"
            [queues.q]
            name = "q"
            bind = []
            [[route]]
            name = "r"
            event = "e"
            queue = "q"
            channel = "{}"
            template = "t"
            recipient = {{ field = "{recipient}" }}
            priority = "medium"
            [route.optional]
            {}
            "#,
            self.channel, self.variables
        );
        RoutingTable::parse(&routes, &HashMap::new()).unwrap()
    }

    fn render_in(mut self, locale: &str) -> Result<Rendered, Vec<String>> {
        for (part, text) in &self.parts {
            for language in ["en", "es"] {
                let path = format!("t/{language}.{part}.hbs");
                self.files.entry(path).or_insert_with(|| text.clone());
            }
        }
        let text = Value::from(self.event.clone()).to_string();
        self.files.insert("t/samples/a.json".to_owned(), text.clone());
        let (routing, files) = (self.routing(), &self.files);
        let environment: Environment = [("SIMULATE", "always")].into_iter().collect();
        let (settings, _) = config::load(None, &environment).unwrap();
        let templates = Templates::compile(files, &routing, Globals::new(&settings))?;
        let sources = Sources::new(&settings).unwrap();
        let faults = templates.try_all(Trial { routing: &routing, files, sources: &sources });
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut event = sample(&text).unwrap();
        event.fields.insert("locale".to_owned(), locale.into());
        let route = routing.route("r").unwrap();
        let variables = route.variables(&event, &sources, "en").unwrap();
        templates.render(route, &variables, &event).map_err(|error| vec![error.to_string()])
    }

    fn rendered(self) -> Result<String, Vec<String>> {
        let is_mail = self.channel == "email";
        self.render_in("en").map(|it| if is_mail { it.html } else { it.text })
    }

    /// The first fault.
    fn fault(self) -> String {
        let faults = self.rendered().expect_err("a fault");
        faults.into_iter().next().unwrap()
    }
}

#[track_caller]
fn assert_text(template: &str, wanted: &str) {
    assert_eq!(World::text(template).rendered().as_deref(), Ok(wanted), "{template}");
}

#[test]
fn the_language_of_handlebars() {
    for (template, wanted) in [
        (
            "{{#each items}}{{name}} × {{quantity}}{{#unless @last}}, {{/unless}}{{/each}}",
            "Popcorn × 2, Soda × 1",
        ),
        (
            "{{#each items as |item i|}}{{i}}{{item.name}}{{#each item.tags as |tag|}}{{tag}}{{item.quantity}}{{/each}}{{/each}}",
            "0Popcornx2y21Soda",
        ),
        (
            "{{#each items}}{{#each tags}}{{this}}{{@index}}{{@../index}}{{../name}}{{@root.count}} {{/each}}{{/each}}",
            "x00Popcorn3 y10Popcorn3 ",
        ),
        (
            "{{#each items}}{{#if tags}}{{../count}}{{name}}{{else}}none{{/if}}{{/each}}",
            "3Popcornnone",
        ),
        (
            "{{#with person}}{{first}}{{address.city}}{{#with address}}{{city}}{{../first}}{{/with}}{{/with}}",
            "AnaCaliCaliAna",
        ),
        (
            "{{#with person.address as |home|}}{{home.city}}{{/with}}{{#with none}}x{{else}}no{{/with}}{{#with zero}}{{this}}{{/with}}",
            "Calino0",
        ),
        (
            "{{person.friends.[1].first}}{{person.friends.0.first}}{{seats.length}}{{name.length}}{{lookup seats 1}}{{lookup metadata \"k\"}}",
            "CiBo37A2v",
        ),
        (
            "{{lookup (lookup items 0) \"name\"}} {{lookup (lookup items 0) \"price\"}}",
            "Popcorn $12.50",
        ),
        (
            "{{#seats}}{{.}}{{@index}}{{/seats}}{{#person}}{{first}}{{/person}}{{^nothing}}none{{/nothing}}",
            "A10A21B52Ananone",
        ),
        (
            "{{#each metadata}}{{@key}}={{this}}{{@index}}{{@first}};{{/each}}",
            "k=v0true;l=11false;",
        ),
        (
            "{{#each nothing}}x{{else}}none{{/each}}{{#each seats}}{{@key}}{{@last}}{{/each}}",
            "none0false1false2true",
        ),
        (
            "{{#if zero}}a{{else}}b{{/if}}{{#if zero includeZero=true}}a{{else}}b{{/if}}{{#unless zero includeZero=true}}a{{else}}b{{/unless}}",
            "bab",
        ),
        (
            "{{#if none}}a{{else if nothing}}b{{else if flag}}c{{else if free}}d{{else}}e{{/if}}",
            "e",
        ),
        (
            "{{#if metadata}}a{{/if}}{{#if (eq flag false)}}b{{/if}}{{#if (and name (not none))}}c{{/if}}{{#eq count 3}}d{{else}}e{{/eq}}",
            "abcd",
        ),
        ("{{{{raw}}}} {{name}} {{{{/raw}}}}\\{{name}} \\\\{{count}}", " {{name}} {{name}} \\3"),
        ("a  {{~! c ~}}  b {{!-- }} {{x}} --}}{{~count~}} \n c", "ab 3c"),
        ("{{#if name}}\n  yes\n{{else}}\n  no\n{{/if}}\n!\n", "  yes\n!\n"),
        ("{{Name}} {{@root/count}} {{./count}} {{this.count}} {{this/count}}", "Ana <b> 3 3 3 3"),
        (
            "{{#each items}}{{#with (lookup tags 0)}}{{.}}{{../name}}{{@index}}{{/with}}{{/each}}",
            "xPopcorn0",
        ),
        (
            "{{#each (lines message)}}[{{this}}]{{/each}}{{#each seats}}{{#if @first}}{{../name}}{{/if}}{{/each}}",
            "[a & b][<c>]Ana <b>",
        ),
    ] {
        assert_text(template, wanted);
    }
}

#[test]
fn includes_of_every_kind() {
    let world = |text: &str| {
        World::text(text)
            .file("_shared/hi.sms.hbs", "Hi {{name}}{{title}}!\n")
            .file("_shared/en.word.hbs", "word")
            .file("_shared/es.word.hbs", "palabra")
            .file("_shared/row.sms.hbs", "{{name}}: {{price}}\n")
            .file("_shared/box.sms.hbs", "[{{> @partial-block}}|{{title}}]")
            .file("_shared/list.sms.hbs", "{{#each items}}{{> @partial-block}};{{/each}}")
            .file(
                "_shared/page.sms.hbs",
                "<{{> nav}}>{{#if @partial-block}}{{> @partial-block}}{{/if}}",
            )
            .file("_shared/lines.sms.hbs", "a\nb\n")
    };
    let world = |text: &str| {
        let mut world = world(text);
        world.variables.push_str("\n    title = \"text\"");
        world
    };
    for (template, wanted) in [
        ("{{> word}}, {{> hi}} {{> hi title=\"x\"}}", "word, Hi Ana <b>! Hi Ana <b>x!"),
        ("{{#each items}}{{> row}} {{/each}}", "Popcorn: €12.50 Soda: $0.00 "),
        ("{{> row items.[1]}}{{> row items.[0] name=\"N\"}}", "Soda: $0.00N: €12.50"),
        ("{{#> box title=\"T\"}}in {{title}}{{name}}{{/box}}", "[in TAna <b>|T]"),
        ("{{#> list}}{{name}}{{@index}}{{/list}}", "Popcorn0;Soda1;"),
        ("{{#> lost}}fallback {{name}}{{/lost}}", "fallback Ana <b>"),
        ("{{> own x=count}}{{#*inline \"own\"}}({{x}}{{name}}){{/inline}}", "(3Ana <b>)"),
        ("{{#> page}}{{#*inline \"nav\"}}nav{{/inline}}body{{/page}}", "<nav>body"),
        ("x\n  {{> lines}}\ny", "x\n  a\n  b\ny"),
        ("{{!-- {{> gone}} --}}ok", "ok"),
        ("{{#> box}}{{#> box}}{{name}}{{/box}}{{/box}}", "[[Ana <b>|]|]"),
    ] {
        assert_eq!(world(template).rendered().as_deref(), Ok(wanted), "{template}");
    }
    for (template, reason) in [
        (
            "a\n {{> gone}}",
            "templates/t/en.sms.hbs:2:2: there is no include \"gone\": no en.gone.hbs and no gone.sms.hbs",
        ),
        (
            "{{> round}}",
            "templates/_shared/back.sms.hbs:1:2: include \"round\" goes round in a circle: ",
        ),
        (
            "{{> (lookup seats 0)}}",
            "templates/t/en.sms.hbs:1:1: which partial it is has to be known",
        ),
        (
            "{{#each items}}{{> up}}{{/each}}",
            "templates/_shared/up.sms.hbs:1:1: a partial does not see what is around it",
        ),
        (
            "{{> box}}",
            "templates/_shared/box.sms.hbs:1:2: the partial was included without a block",
        ),
        (
            "{{#*inline \"me\"}}{{> me}}{{/inline}}{{> me}}",
            "templates/t/en.sms.hbs:1:18: include \"me\" goes round",
        ),
    ] {
        let world = world(template)
            .file("_shared/round.sms.hbs", "{{> back}}")
            .file("_shared/back.sms.hbs", "x{{> round}}")
            .file("_shared/up.sms.hbs", "{{../name}}");
        let fault = world.fault();
        assert!(fault.starts_with(reason), "{template}: {fault}");
    }
}

#[test]
fn what_could_not_be_checked_or_would_be_unsafe_is_refused_with_its_place() {
    for (tag, reason) in [
        ("{{{name}}}", "{{{name}}} would print a value as markup: write {{name}}"),
        ("{{&name}}", "{{{name}}} would print a value as markup: write {{name}}"),
        ("{{lost}}", "\"lost\" is not declared by route \"r\""),
        ("{{#if flag}}{{else}}{{lost}}{{/if}}", "\"lost\" is not declared by route \"r\""),
        (
            "{{person.last}}",
            "there is no field \"last\" (there are address, first, friends), it is not declared",
        ),
        (
            "{{#each items}}{{count}}{{/each}}",
            "\"count\" is looked for in the item (there are currency",
        ),
        (
            "{{#each seats}}{{name}}{{/each}}",
            "\"name\" is looked for in the item, a text: write @root.name",
        ),
        ("{{name.first}}", "\"name.first\" leads into a text, which has no parts"),
        ("{{metadata.k}}", "\"metadata.k\": the route declares an object without its fields"),
        ("{{brand.password}}", "there is no field \"password\""),
        ("{{../name}}", "\"../name\" leads out of the template"),
        ("{{@index}}", "@index is of a list, and there is no list around it"),
        ("{{@level}}", "there is no @level"),
        ("{{person}}", "an object can't be printed"),
        ("{{this}}", "an object can't be printed"),
        ("{{log name}}", "templates can't write to the log"),
        ("{{shout name}}", "there is no helper \"shout\""),
        ("{{#shout name}}{{/shout}}", "there is no helper \"shout\""),
        ("{{if name}}", "{{#if}} is a block"),
        ("{{#if}}{{/if}}", "{{#if}} takes one value, not 0"),
        ("{{#if name count}}{{/if}}", "{{#if}} takes one value, not 2"),
        ("{{#if name x=1}}{{/if}}", "{{#if}} does not take x="),
        (
            "{{#name}}{{/name}}",
            "{{#name}} is for lists and objects, this is a text: write {{#if name}}",
        ),
        ("{{#each name}}{{/each}}", "{{#each}} goes over a list or an object, this is a text"),
        ("{{eq name}}", "eq takes two values, not 1 values"),
        ("{{#if (gt seats 1)}}{{/if}}", "gt takes plain values, this is a list"),
        ("{{#if (gt showtime 1)}}{{/if}}", "gt can't compare a time with a number"),
        ("{{money showtime}}", "money takes an amount and a currency, this is a time"),
        ("{{money amount \"EUR\" 1}}", "money takes an amount and a currency, not 3 values"),
        ("{{date amount}}", "date takes a time, this is an amount"),
        ("{{date showtime \"tiny\"}}", "date is written short, medium, long, full"),
        ("{{number seats}}", "number takes a number, this is a list"),
        ("{{truncate seats 3}}", "truncate takes a text, this is a list"),
        ("{{truncate name}}", "truncate takes a text and a number of characters, not 1 values"),
        ("{{truncate name count}}", "truncate takes how many characters there may be"),
        ("{{list name}}", "list takes a list, this is a text"),
        ("{{list items}}", "list takes a list of plain values"),
        ("{{plural count \"a\"}}", "plural takes a number and its words"),
        ("{{plural count one=\"a\"}}", "plural takes a number and its words"),
        ("{{plural count some=\"a\" other=\"b\"}}", "plural does not take some="),
        ("{{lookup items.[0] count}}", "which field it is has to be known"),
        ("{{#if a}}", "{{#if a}} is never closed"),
        ("{{/if}}", "{{/if}} closes nothing"),
        ("{{else}}", "{{else}} stands in no block"),
        ("{{#if name}}{{/each}}", "{{#if}} is closed by {{/each}}"),
        ("{{name", "the tag that begins here has no end"),
        ("{{name count=}}", "{{name count=}} is not Handlebars"),
        ("{{* name}}", "there are no decorators"),
        ("{{#each [1]}}{{/each}}", "a list or an object can't be written"),
        ("{{{{other}}}}{{{{/other}}}}", "a raw block is {{{{raw}}}}"),
        ("{{^name}}a{{else}}b{{/name}}", ""),
    ] {
        let world = World::text(&format!("first\n  {tag}"));
        let faults = world.rendered().expect_err(tag);
        let place = "templates/t/en.sms.hbs:2:";
        let found = faults.iter().any(|it| it.starts_with(place) && it.contains(reason));
        assert!(found, "{tag}: {faults:?}");
    }
}

#[test]
fn values_stay_values() {
    for (template, wanted) in [
        (
            "{{amount}} {{free}} {{showtime}} {{wait}} {{seats}} {{prices}}",
            "$25.50 $0.00 Sunday, December 15, 2024 at 7:30 PM 15 minutes A1, A2, and B5 $1.00 and $2.50",
        ),
        (
            "{{#if (gt amount 0)}}a{{else}}b{{/if}}{{#if free}}a{{else}}b{{/if}}{{#if (eq free 0)}}a{{/if}}{{#if (eq amount \"25.50\")}}a{{/if}}",
            "abaa",
        ),
        (
            "{{#if (gt seats.length 2)}}a{{/if}}{{#if (gte count 3)}}b{{/if}}{{#if (lt showtime \"2025-01-01\")}}c{{/if}}",
            "abc",
        ),
        ("{{money amount \"EUR\"}} {{money count}} {{money amount}}", "€25.50 $3.00 $25.50"),
        (
            "{{date showtime}}|{{date showtime \"short\"}}|{{date showtime \"full\"}}|{{time showtime}}",
            "December 15, 2024|12/15/24|Sunday, December 15, 2024|7:30 PM",
        ),
        (
            "{{number amount}} {{plural count \"day\" \"days\"}} {{plural free one=\"item\" other=\"items\"}}",
            "25.5 3 days 0 items",
        ),
        (
            "{{list seats}} {{duration 3600}} {{when showtime}}",
            "A1, A2, and B5 1 hour Sunday, December 15, 2024 at 7:30 PM",
        ),
        ("{{current_year}} {{current_date}}", "2024 December 10, 2024"),
        (
            "{{truncate message 9}}|{{truncate message 8}}|{{truncate seats.[0] 1}}|{{truncate none 9}}",
            "a & b <c>|a & b…|A…|",
        ),
        ("{{#each items}}{{price}}{{#if price}}+{{/if}} {{/each}}", "€12.50+ $0.00 "),
    ] {
        assert_text(template, wanted);
    }
    let spanish = World::text("{{list seats}} {{plural count \"día\" \"días\"}} {{amount}}");
    assert_eq!(spanish.render_in("es").unwrap().text, "A1, A2 y B5 3 días $25.50");
    let absent = World::text(
        "{{#if metadata}}a{{/if}}{{#if amount}}b{{/if}}{{amount}}{{showtime}}{{#if (gt amount 0)}}c{{/if}}",
    );
    let event = [("event_type", "e"), ("event_id", "1"), ("user_phone", "+573001234567")];
    let event = event.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let absent = World { event, ..absent };
    assert_eq!(absent.rendered().as_deref(), Ok(""));
}

#[test]
fn authors_files_as_they_are() {
    let column = "<mj-text>Hi {{name}}</mj-text>";
    let shown = |world: World| {
        let html = world.rendered().unwrap_or_else(|faults| panic!("{faults:?}"));
        assert!(!html.contains("<mj"), "{html}");
        assert!(html.contains(">Hi Ana &lt;b&gt;</div>"), "{html}");
        html
    };
    let whole = format!(
        "<mjml><mj-body><mj-section><mj-column>{column}</mj-column></mj-section></mj-body></mjml>"
    );
    for before in [
        "",
        "<!-- v2 -->",
        "\u{feff}",
        "\u{feff}<!-- v2 -->\r\n",
        "{{!-- v2 --}}\n",
        "<?xml version=\"1.0\"?>\n",
        "<!DOCTYPE html>\n",
        "<!-- {{> gone}} {{lost}} -->",
    ] {
        shown(World::mail("mjml", &super::source::clean(&format!("{before}{whole}"))));
    }
    let inner = |inner: &str| whole.replace(column, inner);
    shown(World::mail(
        "mjml",
        &inner(&format!("<!-- {{{{#if name}}}} -->{column}<!-- {{{{/if}}}} -->")),
    ));
    shown(World::mail("mjml", &inner(&format!("{{{{#if (eq count 3)}}}}{column}{{{{/if}}}}"))));
    shown(World::mail(
        "mjml",
        &inner(&format!(
            "{column}<mj-text><p {{{{#if name}}}}class=\"x\"{{{{/if}}}} title=\"{{{{#if (eq name \"a>b\")}}}}x{{{{/if}}}}\">y</p></mj-text>"
        )),
    ));
    let kept = shown(World::mail(
        "mjml",
        &inner(&format!("{column}<mj-raw><!--[if mso]>Outlook<![endif]--><!-- gone --></mj-raw>")),
    ));
    assert!(kept.contains("<!--[if mso]>Outlook<![endif]-->") && !kept.contains("gone"), "{kept}");
    let styled = World::mail("html", "<style>a::after { content: \"→\" }</style><p>→ {{name}}</p>");
    let styled = styled.rendered().unwrap();
    assert_eq!(
        styled,
        "<style>a::after { content: \"\\2192 \" }</style><p>&#8594; Ana &lt;b&gt;</p>"
    );
    for (part, text, reason) in [
        (
            "html",
            "<p>x</p>\n<mj-text>a</mj-text>",
            "en.html.hbs:2:1: <mj-text> is MJML, and this is HTML",
        ),
        ("mjml", "<mjml><mj-body><mj-nothing/></mj-body></mjml>", "en.mjml.hbs:1:"),
        (
            "mjml",
            "<mjml><mj-body>\n<mj-section {{#if name}}a=\"b\"{{/if}}></mj-section></mj-body></mjml>",
            "en.mjml.hbs:2:13: MJML has no place for a block here",
        ),
        (
            "mjml",
            "<mjml><mj-body>\n<mj-section></mj-body></mjml>",
            "en.mjml.hbs:2:1: MJML: <mj-section> is never closed",
        ),
        (
            "mjml",
            "<mjml><mj-body><mj-section><mj-column>\nDear {{name}}</mj-column></mj-section></mj-body></mjml>",
            "en.mjml.hbs:2:1: MJML: text directly in <mj-column> is not seen in the mail",
        ),
    ] {
        let fault = World::mail(part, text).fault();
        assert!(fault.contains(reason), "{fault}");
    }
}

#[test]
fn a_document_that_cannot_be_told_apart_is_refused() {
    let source = |html: &str| {
        let stored = Stored { html_content: html.to_owned(), ..Stored::default() };
        stored.source().map(|source| source.markup)
    };
    use super::source::Markup::{Html, Mjml};
    for (html, markup) in [
        ("<mj-text>a</mj-text>", Mjml),
        ("<!-- v2 -->\n<mj-text>a</mj-text>", Mjml),
        ("\u{feff}{{!-- x --}}<!-- <p> --><mjml></mjml>", Mjml),
        ("{{#if a}}<mj-text>a</mj-text>{{/if}}", Mjml),
        ("<!doctype html><!-- <mj-text> --><p>a</p>", Html),
        ("Hi {{name}}", Html),
    ] {
        assert_eq!(source(html), Ok(markup), "{html}");
    }
    for html in ["Hi <mj-text>a</mj-text>", "<div><mj-text>a</mj-text></div>", "<p>a</p><MJ-TEXT>"]
    {
        let fault = source(html).unwrap_err();
        assert!(fault.contains("can't be told"), "{fault}");
    }
}

#[test]
fn no_template_takes_more_than_its_budget() {
    let nested = |times: usize, list: &str| {
        format!("{}x{}", format!("{{{{#each {list}}}}}").repeat(times), "{{/each}}".repeat(times))
    };
    let deep = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    let fault = World::text(&nested(45, "@root.seats")).fault();
    assert!(fault.ends_with("rendering it takes more than 200000 steps"), "{fault}");
    let long = World::text(&nested(2, "@root.seats").replace('x', "{{@root.message}}"));
    let long = long.field("message", "x".repeat(600_000).into()).fault();
    assert!(long.contains("bytes"), "{long}");
    let many = Value::from(vec!["x"; 20_000]);
    let rows = World::text("{{#each seats}}{{this}}{{/each}}").field("seats", many.clone());
    assert_eq!(rows.rendered().unwrap().len(), 20_000);
    let twice = World::text("{{#each seats}}{{#each @root.seats}}{{this}}{{/each}}{{/each}}");
    assert!(twice.field("seats", many).fault().contains("steps"));

    let calls =
        |times| format!("{{{{#if {}}}}}x{{{{/if}}}}", deep("(and name ", "name", ")", times));
    let blocks = |times| deep("{{#if name}}", "x", "{{/if}}", times);
    let chain = |times| format!("{{{{#if name}}}}{}{{{{/if}}}}", "{{else if name}}x".repeat(times));
    for text in [&calls as &dyn Fn(usize) -> String, &blocks, &chain] {
        World::text(&text(90)).rendered().unwrap();
        let fault = World::text(&text(5000)).fault();
        assert!(fault.contains("nest deeper than 100"), "{fault}");
    }
    let raw = |elements: String| {
        World::mail("mjml", &format!("<mjml><mj-body><mj-raw>{elements}</mj-raw></mj-body></mjml>"))
    };
    raw(deep("<div>", "", "</div>", 90)).rendered().unwrap();
    raw("<div title=\"/>\"></div><br>".repeat(5000)).rendered().unwrap();
    for elements in [deep("<div>", "", "</div>", 5000), "<div title=\"/>\">".repeat(11_000)] {
        let fault = raw(elements).fault();
        assert!(fault.contains("nest deeper than 100"), "{fault}");
    }
    let big = World::text(&"x".repeat(300_000)).fault();
    assert!(big.contains("more than 262144 bytes"), "{big}");
    let laughs = (0..9).fold(World::text("{{> a0}}"), |world, level| {
        let text = format!("{{{{> a{}}}}}", level + 1).repeat(10);
        world.file(&format!("_shared/a{level}.sms.hbs"), &text)
    });
    let fault = laughs.file("_shared/a9.sms.hbs", "ha{{name}}").fault();
    assert!(fault.contains("more than"), "{fault}");
}

#[test]
fn buttons_are_readable_in_every_colour() {
    for (colour, text) in [
        ("#1f3a5f", "#ffffff"),
        ("#e50914", "#ffffff"),
        ("#767676", "#ffffff"),
        ("#777777", "#000000"),
        ("#ffcc00", "#000000"),
        ("#FFFFFF", "#000000"),
    ] {
        assert_eq!(readable_on(colour), text, "{colour}");
    }
}

#[test]
fn a_subject_is_one_line() {
    assert_eq!(header(" a\r\nBcc: x@y \u{0}\tb "), "a Bcc: x@y b");
}

#[test]
fn a_language_is_its_files() {
    let mail = |locale| {
        let world = World::text("{{amount}}").file("t/pt.sms.hbs", "{{> hi}} {{amount}}");
        let world = world.file("t/pt.hi.hbs", "olá").file("t/pt-PT.sms.hbs", "{{> hi}}");
        world.render_in(locale).unwrap()
    };
    for (locale, text, written_in) in [
        ("pt-BR", "olá US$ 25,50", "pt-BR"),
        ("pt_PT", "olá", "pt-PT"),
        ("es-MX", "US$25.50", "es-MX"),
        ("fr", "$25.50", "en"),
    ] {
        let mail = mail(locale);
        assert_eq!((mail.text.trim(), mail.template.locale.as_str()), (text, written_in));
    }
    let without_default = World { parts: Vec::new(), ..World::text("") };
    let faults = without_default.file("t/pt.sms.hbs", "x").render_in("pt").unwrap_err();
    assert!(faults[0].contains("DEFAULT_LOCALE"), "{faults:?}");
    let faults = World::text("x").file("t/pt_br.sms.hbs", "x").render_in("en").unwrap_err();
    assert!(faults[0].contains("\"pt-BR\""), "{faults:?}");
}

#[test]
fn no_value_turns_the_direction_of_the_text_around_it() {
    let in_language = |language: &str, text: &str, name: &str| {
        let world = World::text(text).file(&format!("t/{language}.sms.hbs"), text);
        world.field("name", name.into()).render_in(language).unwrap().text
    };
    let arabic = "محمد (علي)!";
    for (language, text, name, wanted) in [
        ("en", "Hi {{name}}!", "Ana", "Hi Ana!"),
        ("en", "Hi {{name}}!", arabic, "Hi \u{2068}محمد (علي)!\u{2069}!"),
        ("en", "{{name}}.", "\u{202e}x", "\u{2068}\u{202e}x\u{2069}."),
        ("en", "{{name}}.", "a\u{2069}\u{2067}b", "\u{2068}a\u{2067}b\u{2069}\u{2069}."),
        ("en", "{{money amount}} {{plural count \"day\" \"days\"}}", "", "$25.50 3 days"),
        (
            "ar-MA",
            "{{name}}، {{seats}}",
            "Ana",
            "\u{2068}Ana\u{2069}، \u{2068}A1\u{2069} و\u{2068}A2\u{2069} و\u{2068}B5\u{2069}",
        ),
        ("ar-MA", "{{name}}", "https://example.com/?a", "https://example.com/?a"),
        ("ar-MA", "{{dir}}{{#if (eq name \"Ana\")}}+{{/if}}", "Ana", "\u{2068}rtl\u{2069}+"),
        ("fa", "{{dir}}", "", "\u{2068}rtl\u{2069}"),
        ("pa-Arab", "{{dir}}", "", "\u{2068}rtl\u{2069}"),
        ("pt", "{{dir}}", "", "ltr"),
    ] {
        assert_eq!(in_language(language, text, name), wanted, "{language} {text}");
    }
    let html = "<title>{{name}}</title><a href=\"x{{name}}\" title='>'>{{name}}</a><!-- {{name}} -->\
                <!--[if mso]>{{name}}<![endif]--><p>{{#if name}}{{name}}{{/if}} {{seats}}</p>";
    let html = World::mail("html", html).field("name", "עלי".into()).rendered().unwrap();
    let name = "&#1506;&#1500;&#1497;";
    assert_eq!(
        html,
        format!(
            "<title>{name}</title><a href=\"x{name}\" title='>'><bdi>{name}</bdi></a>\
             <!--[if mso]>{name}<![endif]--><p><bdi>{name}</bdi> A1, A2, and B5</p>"
        )
    );
}

#[test]
fn a_plural_says_where_its_number_stands() {
    let text = "{{plural count one=\"يوم واحد\" two=\"يومان\" few=\"# أيام\" many=\"# يومًا\" other=\"# يوم\"}}";
    for (count, wanted) in
        [(1, "يوم واحد"), (2, "يومان"), (3, "3 أيام"), (1011, "1.011 يومًا"), (100, "100 يوم")]
    {
        let world = World::text(text).file("t/ar-MA.sms.hbs", text).field("count", count.into());
        let text = world.render_in("ar-MA").unwrap().text;
        assert_eq!(text, format!("\u{2068}{wanted}\u{2069}"));
    }
    assert_text("{{plural count \"# of them\" \"all # of them\"}}", "all 3 of them");
}
