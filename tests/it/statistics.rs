//! Reports by HTTP: moved bookings for support, and statistics of mail.

use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    indexes::assert_uses_an_index,
    support::{
        events::{BOOKINGS, booking, rescheduled, with},
        eventually,
        http::Answer,
        smtp::{Phase, SmtpServer},
        usher::{Builder, Usher},
        world::{World, text},
    },
};
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::doc;
use usher::audit::store::search::Filter;

const ANA: &str = "the-token-of-ana-of-support";
const BEA: &str = "the-token-of-bea-of-support";
const MOVED: &str = "/api/notificaciones/reprogramaciones/";

fn ask(usher: &Usher, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let authorization = format!("Bearer {token}");
    let body = body.map(Value::to_string);
    usher.ask(method, path, &[("Authorization", &authorization)], body.as_deref())
}

fn get(usher: &Usher, token: &str, path: &str) -> Value {
    let answer = ask(usher, token, "GET", path, None);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// The total, the unread, and the bookings on the page.
fn listed(usher: &Usher, token: &str, query: &str) -> (u64, u64, Vec<String>) {
    let list = get(usher, token, &format!("{MOVED}{query}"));
    let all = list["notificaciones"].as_array().expect("a list").iter();
    let bookings = all.map(|one| one["reserva_id"].as_str().expect("a booking").to_owned());
    let number = |field: &str| list[field].as_u64().expect("a number");
    (number("total"), number("no_leidas"), bookings.collect())
}

fn sum(days: &Value, field: &str) -> u64 {
    days.as_array().expect("days").iter().map(|day| day[field].as_u64().expect("a number")).sum()
}

/// A support team that looks at moved bookings.
struct Support {
    world: World,
    smtp: SmtpServer,
    settings: Builder,
    usher: Usher,
}

impl Support {
    async fn new() -> Self {
        let world = World::new().await;
        let smtp = SmtpServer::start().await;
        smtp.at(Phase::Rcpt).to("eve@example.com").reply("550 5.1.1 no such user");
        let settings = world
            .usher()
            .smtp(&smtp)
            .set("ADMIN_EMAILS", "admin@cine.test")
            .set("API_TOKENS", format!("{ANA},{BEA}"));
        let usher = settings.start().await;
        Self { world, smtp, settings, usher }
    }

    /// With three bookings moved: B-1 of Juan, B-2 of Eve whom no mail reaches, B-3 of Lea whose event
    /// lacks a field.
    async fn with_three_moved() -> Self {
        let support = Self::new().await;
        let told = json!({
            "customer_name": "Juan Pérez", "reason": "Cliente solicitó cambio",
            "rescheduled_by": "Admin", "occurred_at": "2026-01-10T15:30:00Z",
        });
        support.moved("r-1", "juan", "B-1", told).await;
        support.moved("r-2", "eve", "B-2", json!({})).await;
        support.moved("r-3", "lea", "B-3", json!({"customer_name": null})).await;
        support
    }

    /// Moves a booking, and waits for the records of the customer's mail and the admin's.
    async fn moved(&self, id: &str, name: &str, booking: &str, more: Value) {
        let event = with(rescheduled(id, &format!("{name}@example.com")), &more);
        let event = with(event, &json!({"booking_id": booking}));
        self.world.broker.publish(BOOKINGS, event.to_string()).await;
        let deliveries = self.world.collection("deliveries");
        eventually(&format!("both records of {id}"), async || {
            let found = deliveries.count_documents(doc! {"event.id": id}).await;
            (found.expect("an answer") == 2).then_some(())
        })
        .await;
    }

    /// Juan's confirmation of B-1.
    async fn confirmed(&self) {
        let event = with(booking("b-1", "juan@example.com"), &json!({"booking_id": "B-1"}));
        self.world.broker.publish(BOOKINGS, event.to_string()).await;
        self.world.until_records_of(&["b-1"]).await;
    }

    fn get(&self, token: &str, path: &str) -> Value {
        get(&self.usher, token, path)
    }

    fn listed(&self, token: &str, query: &str) -> (u64, u64, Vec<String>) {
        listed(&self.usher, token, query)
    }

    /// Marks as read; gives how many are new and which are unknown.
    fn mark(&self, token: &str, body: &Value) -> (Value, Value) {
        let path = format!("{MOVED}leidas/");
        let answer = ask(&self.usher, token, "POST", &path, Some(body));
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        (answer["marcadas"].clone(), answer["desconocidas"].clone())
    }

    /// The id of the only entry about this booking.
    fn id_of(&self, booking: &str) -> Value {
        let list = self.get(ANA, &format!("{MOVED}?reserva_id={booking}"));
        list["notificaciones"][0]["id"].clone()
    }
}

/// This number of a report; it has to be there.
fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {report}"))
}

#[tokio::test]
async fn moved_bookings_are_listed_newest_first_with_what_became_of_their_mail() {
    let support = Support::with_three_moved().await;
    let list = support.get(ANA, MOVED);
    assert_eq!((&list["total"], &list["no_leidas"]), (&json!(3), &json!(3)));
    assert_eq!((&list["next"], &list["previous"]), (&Value::Null, &Value::Null));
    let mut juan = list["notificaciones"][2].clone();
    assert!(juan["id"].take().is_string());
    assert_eq!(
        juan,
        json!({
            "id": null, "tipo": "reprogramacion", "reserva_id": "B-1",
            "cliente": {"nombre": "Juan Pérez", "email": "juan@example.com"},
            "fecha_anterior": "2026-12-15T19:30:00-05:00", "fecha_nueva": "2026-12-20T20:00:00-05:00",
            "motivo": "Cliente solicitó cambio", "reprogramado_por": "Admin",
            "timestamp": "2026-01-10T15:30:00Z", "leida": false,
            "estado": "sent", "notificacion_enviada": true, "error": null,
        })
    );
    let eve = &list["notificaciones"][1];
    let refused = json!({"tipo": "refused", "categoria": "smtp", "codigo": 550});
    assert_eq!((&eve["estado"], &eve["error"]), (&json!("failed"), &refused));
    let one = (1, 1, vec!["B-2".to_owned()]);
    assert_eq!(support.listed(ANA, "?reserva_id=B-2"), one);
}

#[tokio::test]
async fn one_readers_marks_do_not_affect_anothers() {
    let support = Support::with_three_moved().await;
    let id = support.id_of("B-1");
    assert_eq!(support.mark(ANA, &json!({"ids": [id, "x"]})), (json!(1), json!(["x"])));
    assert_eq!(support.mark(ANA, &json!({"ids": [id]})), (json!(0), json!([])));
    assert_eq!(support.listed(ANA, "").1, 2);
    assert_eq!(support.listed(BEA, "").1, 3);
    let unread = vec!["B-3".to_owned(), "B-2".to_owned()];
    assert_eq!(support.listed(ANA, "?leida=false"), (3, 2, unread));
    assert_eq!(support.listed(ANA, "?leida=true"), (3, 2, vec!["B-1".to_owned()]));
}

#[tokio::test]
async fn what_comes_after_a_period_that_was_marked_stays_unread() {
    let support = Support::with_three_moved().await;
    let period = support.get(BEA, MOVED)["periodo"].clone();
    assert_eq!(support.mark(BEA, &period), (json!(3), json!([])));
    support.moved("r-4", "kim", "B-4", json!({})).await;
    assert_eq!(support.listed(BEA, "?leida=false"), (4, 1, vec!["B-4".to_owned()]));
}

#[tokio::test]
async fn a_mark_names_nobody() {
    let support = Support::new().await;
    support.moved("r-1", "juan", "B-1", json!({})).await;
    support.mark(ANA, &json!({"ids": [support.id_of("B-1")]}));
    let marks = support.world.all("read_marks").await;
    let [mark] = &marks[..] else { panic!("{marks:?}") };
    let fields: Vec<_> = mark.keys().map(String::as_str).collect();
    assert_eq!(fields, ["_id", "purge_at"]);
    assert!(!text(mark, "_id").contains("token"), "{mark}");
}

#[tokio::test]
async fn pages_are_followed_by_their_links_on_both_paths() {
    let support = Support::with_three_moved().await;
    for path in [MOVED, "/api/notifications/reschedules/"] {
        let mut next = Some(format!("{path}?page_size=2&leida=false"));
        let mut pages = Vec::new();
        while let Some(path) = next {
            let page = support.get(ANA, &path);
            let all = page["notificaciones"].as_array().unwrap().iter();
            pages.push(all.map(|one| one["reserva_id"].clone()).collect::<Vec<_>>());
            let rest = |link: &str| link.split_once("127.0.0.1").map(|(_, path)| path.to_owned());
            next = page["next"].as_str().map(|link| rest(link).expect("a link to here"));
        }
        assert_eq!(pages, [vec!["B-3", "B-2"], vec!["B-1"]], "{path}");
    }
}

#[tokio::test]
async fn moves_are_counted_by_outcome_error_and_day() {
    let support = Support::with_three_moved().await;
    support.moved("r-4", "kim", "B-4", json!({})).await;
    let metrics = support.get(ANA, "/api/notificaciones/metricas/");
    for (field, value) in [
        ("total_reprogramaciones", json!(4)),
        ("notificaciones_enviadas", json!(2)),
        ("tasa_entrega", json!(50.0)),
        ("notificaciones_fallidas", json!(2)),
        ("notificaciones_pendientes", json!(0)),
        ("notificaciones_omitidas", json!(0)),
    ] {
        assert_eq!(metrics[field], value, "{field}");
    }
    let kinds = json!([
        {"tipo": "missing_variable", "categoria": "datos", "codigo": null, "cantidad": 1},
        {"tipo": "refused", "categoria": "smtp", "codigo": 550, "cantidad": 1},
    ]);
    assert_eq!(metrics["errores_por_tipo"], kinds);
    let median = number(&metrics, "/tiempo_envio_ms/p50");
    assert!(0.0 < median && median <= number(&metrics, "/tiempo_envio_ms/max"), "{metrics}");
    let days = &metrics["por_dia"];
    assert_eq!(days.as_array().unwrap().len(), 8, "a week ago to today");
    assert_eq!(sum(days, "total_reprogramaciones"), 4);
    assert_eq!(sum(days, "notificaciones_enviadas"), 2);
}

#[tokio::test]
async fn a_period_without_moves_has_no_times() {
    let support = Support::new().await;
    support.moved("r-1", "juan", "B-1", json!({})).await;
    let path = "/api/notifications/metrics/?desde=2025-01-01&hasta=2025-01-02";
    let before = support.get(ANA, path);
    assert_eq!(
        before["periodo"],
        json!({"desde": "2025-01-01T00:00:00Z", "hasta": "2025-01-03T00:00:00Z"})
    );
    assert_eq!((&before["tasa_entrega"], &before["tiempo_envio_ms"]), (&json!(0.0), &Value::Null));
}

#[tokio::test]
async fn all_mail_is_counted_by_priority_and_day() {
    let support = Support::with_three_moved().await;
    support.confirmed().await;
    let mail = support.get(ANA, "/api/v1/transacciones/estadisticas/correos");
    // Two mails to Juan, and the admin's copies of two moves; the third lacks a field for both.
    assert_eq!(mail["total_correos_enviados"], 4, "{mail}");
    assert_eq!(mail["correos_prioridad_alta"], 2);
    assert_eq!(mail["correos_por_prioridad"], json!({"high": 2, "medium": 2, "low": 0}));
    assert_eq!((&mail["correos_fallidos"], &mail["tasa_exito"]), (&json!(3), &json!(57.14)));
    assert!(mail["fecha_ultima_actualizacion"].is_string(), "{mail}");
    assert!(number(&mail, "/tiempo_promedio_procesamiento_ms") > 0.0);
    assert_eq!(sum(&mail["por_dia"], "enviados"), 4);
    assert_eq!(support.smtp.accepted().len(), 4);
    // It is null while the broker takes longer than the report waits for it.
    eventually("the broker says how many messages wait", async || {
        support.get(ANA, "/api/v1/transacciones/estadisticas/correos")["correos_en_cola"].as_u64()
    })
    .await;
}

#[tokio::test]
async fn all_mail_about_a_booking_is_found() {
    let support = Support::new().await;
    support.moved("r-1", "juan", "B-1", json!({})).await;
    support.moved("r-2", "kim", "B-2", json!({})).await;
    support.confirmed().await;
    let about = support.get(ANA, "/api/notifications/?reserva_id=B-1");
    assert_eq!(about["count"], 3);
    let newest = &about["results"][0];
    assert_eq!(
        (&newest["tipo"], &newest["destinatario"]),
        (&json!("booking.confirmed"), &json!("juan@example.com"))
    );
}

#[tokio::test]
async fn an_erased_customer_has_no_name_any_more() {
    let support = Support::new().await;
    support.moved("r-1", "juan", "B-1", json!({})).await;
    support.mark(ANA, &json!({"ids": [support.id_of("B-1")]}));
    let erase = ["audit", "erase", "--recipient", "juan@example.com", "--reason", "asked", "--yes"];
    run(&support.settings, 0, &erase).await;
    let list = support.get(ANA, &format!("{MOVED}?reserva_id=B-1"));
    let juan = &list["notificaciones"][0];
    assert_eq!(juan["cliente"], json!({"nombre": null, "email": null}));
    assert_eq!(juan["leida"], true);
}

#[tokio::test]
async fn a_question_that_can_not_be_answered_is_refused_with_the_reason() {
    let support = Support::new().await;
    for (method, path, body, status, words) in [
        ("GET", "?desde=ayer", None, 400, "ayer\\\" is neither a time nor a day"),
        ("GET", "?desde=2026-02-01&hasta=2026-01-01", None, 400, "is not before"),
        ("GET", "?desde=2020-01-01", None, 400, "366 days"),
        ("GET", "?leida=quizas", None, 400, "leida"),
        ("GET", "?page=0", None, 422, "page"),
        ("GET", "?page_size=1000", None, 422, "page_size"),
        ("POST", "leidas/", Some(json!({})), 422, "either ids, or desde and hasta"),
        ("POST", "leidas/", Some(json!({"ids": 7})), 422, "ids"),
        ("POST", "leidas/", Some(json!([["x"], null, null])), 422, "is a list, not an object"),
        ("POST", "leidas/", Some(json!({"ids": vec![""; 501]})), 422, "500"),
    ] {
        let answer = ask(&support.usher, ANA, method, &format!("{MOVED}{path}"), body.as_ref());
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        let said = [answer.body.clone(), answer.json().to_string()].concat();
        assert!(said.contains(words), "{answer:?}");
    }
}

#[tokio::test]
async fn reports_are_for_those_alone_who_have_a_token() {
    let support = Support::new().await;
    for path in [MOVED, "/api/notifications/metrics/", "/api/v1/transactions/statistics/emails"] {
        let answer = ask(&support.usher, "nobody's token", "GET", path, None);
        assert_eq!(answer.status, 401, "{path}");
    }
}

#[tokio::test]
async fn without_streams_there_is_nothing_to_process_by_request() {
    let support = Support::new().await;
    let path = "/api/v1/transactions/process-emails";
    let answer = ask(&support.usher, ANA, "POST", path, Some(&json!({"batch_size": 10})));
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.body.contains("STREAM_URL"), "{answer:?}");
}

#[tokio::test]
async fn each_query_of_a_report_has_its_index() {
    let Support { world, .. } = &Support::with_three_moved().await;
    let since = Some(Timestamp::now() - SignedDuration::from_hours(1));
    let routes = Some(vec!["booking-rescheduled".to_owned()]);
    let list = Filter { routes, since, ..Filter::default() };
    assert_uses_an_index(world, "deliveries", &list.to_document(), &doc! {"at": 1}).await;
    let about = Filter { booking: Some("B-1".to_owned()), ..Filter::default() };
    assert_uses_an_index(world, "deliveries", &about.to_document(), &doc! {}).await;
    assert_uses_an_index(world, "deliveries", &doc! {"event.id": {"$in": ["a", "b"]}}, &doc! {})
        .await;
    assert_uses_an_index(world, "read_marks", &doc! {"_id": "reader/delivery"}, &doc! {}).await;
}

#[tokio::test]
async fn operators_see_who_gets_mail_and_how_much_of_a_rate_is_used() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("eve@Example.com").reply("550 5.1.1 no such user");
    let builder = world.usher().smtp(&smtp).set("SMTP_RATE", "3600/h");
    let _usher = builder.start().await;
    for (id, to) in [
        ("e-1", "ana@example.com"),
        ("e-2", "ana@example.com"),
        ("e-3", "eve@Example.com"),
        ("e-4", "bob@example.net"),
    ] {
        world.broker.publish(BOOKINGS, booking(id, to).to_string()).await;
    }
    world.until_records_of(&["e-1", "e-2", "e-3", "e-4"]).await;
    let by = async |what: &str, more: &[&str]| {
        let output =
            builder.output(&[&["audit", "stats", "--json", "--by", what], more].concat()).await;
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).expect("text");
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let names = |groups: &[Value]| {
        let brief = |group: &Value| {
            (group["name"].as_str().expect("a name").to_owned(), group["deliveries"].as_u64())
        };
        groups.iter().map(brief).collect::<Vec<_>>()
    };
    let domains = by("recipient-domain", &[]).await;
    assert_eq!(
        names(&domains),
        [("example.com".to_owned(), Some(3)), ("example.net".to_owned(), Some(1))]
    );
    assert_eq!(domains[0]["statuses"], json!({"sent": 2, "failed": 1}));
    let recipients = by("recipient", &["--limit", "1"]).await;
    assert_eq!(names(&recipients), [("a***@example.com".to_owned(), Some(2))]);
    assert_eq!(recipients[0]["recipient_hash"].as_str().map(str::len), Some(32));
    let recipients = by("recipient", &["--addresses"]).await;
    assert_eq!(recipients.len(), 3);
    assert_eq!(names(&recipients)[0].0, "ana@example.com");
    for (what, name) in [
        ("route", "booking-confirmed"),
        ("source", BOOKINGS),
        ("sender", "noreply@cine.test"),
        ("brand", ""),
        ("type", "booking.confirmed"),
    ] {
        assert_eq!(names(&by(what, &[]).await)[0], (name.to_owned(), Some(4)), "{what}");
    }
    let errors = [(String::new(), Some(3)), ("refused".to_owned(), Some(1))];
    assert_eq!(names(&by("error", &[]).await), errors);
    let relays = by("relay", &[]).await;
    assert_eq!(
        (&relays[0]["busiest_hour"], &relays[0]["allowed_in_an_hour"]),
        (&json!(3), &json!(3600))
    );
    let table = builder.output(&["audit", "stats", "--by", "relay"]).await;
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.contains("0.1 %"), "{table}");
}
