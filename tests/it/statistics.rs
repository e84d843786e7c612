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
        usher::Usher,
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

#[tokio::test]
async fn moved_bookings_are_listed_counted_and_marked_as_read_by_each_reader() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("eve@example.com").reply("550 5.1.1 no such user");
    let settings = world
        .usher()
        .smtp(&smtp)
        .set("ADMIN_EMAILS", "admin@cine.test")
        .set("API_TOKENS", format!("{ANA},{BEA}"));
    let usher = settings.start().await;
    let moved = async |id: &str, name: &str, booking: &str, more: Value| {
        let event = with(rescheduled(id, &format!("{name}@example.com")), &more);
        let event = with(event, &json!({"booking_id": booking}));
        world.broker.publish(BOOKINGS, event.to_string()).await;
        // The customer's mail and the admin's.
        eventually(&format!("both records of {id}"), async || {
            let found = world.collection("deliveries").count_documents(doc! {"event.id": id}).await;
            (found.expect("an answer") == 2).then_some(())
        })
        .await;
    };
    let told = json!({
        "customer_name": "Juan Pérez", "reason": "Cliente solicitó cambio",
        "rescheduled_by": "Admin", "occurred_at": "2026-01-10T15:30:00Z",
    });
    moved("r-1", "juan", "B-1", told).await;
    moved("r-2", "eve", "B-2", json!({})).await;
    moved("r-3", "lea", "B-3", json!({"customer_name": null})).await;
    let other = with(booking("b-1", "juan@example.com"), &json!({"booking_id": "B-1"}));
    world.broker.publish(BOOKINGS, other.to_string()).await;
    world.until_records(7).await;

    let list = get(&usher, ANA, MOVED);
    assert_eq!((&list["total"], &list["no_leidas"]), (&json!(3), &json!(3)));
    assert_eq!((&list["next"], &list["previous"]), (&Value::Null, &Value::Null));
    let mut juan = list["notificaciones"][2].clone();
    let id = juan["id"].take();
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

    // One reader's marks don't affect the other's.
    let mark = |token: &str, body: Value| {
        let answer = ask(&usher, token, "POST", &format!("{MOVED}leidas/"), Some(&body));
        (answer.status, answer.json())
    };
    let marked =
        |new: u64, unknown: Value| (200, json!({"marcadas": new, "desconocidas": unknown}));
    assert_eq!(mark(ANA, json!({"ids": [id, "x"]})), marked(1, json!(["x"])));
    assert_eq!(mark(ANA, json!({"ids": [id]})), marked(0, json!([])));
    assert_eq!(listed(&usher, ANA, "").1, 2);
    assert_eq!(listed(&usher, BEA, "").1, 3);
    let both = vec!["B-3".to_owned(), "B-2".to_owned()];
    assert_eq!(listed(&usher, ANA, "?leida=false"), (3, 2, both));
    assert_eq!(listed(&usher, ANA, "?leida=true"), (3, 2, vec!["B-1".to_owned()]));
    assert_eq!(listed(&usher, ANA, "?reserva_id=B-2"), (1, 1, vec!["B-2".to_owned()]));
    // Bea marks the period of her page; later entries stay unread.
    assert_eq!(mark(BEA, list["periodo"].clone()), marked(3, json!([])));
    moved("r-4", "kim", "B-4", json!({})).await;
    assert_eq!(listed(&usher, BEA, "?leida=false"), (4, 1, vec!["B-4".to_owned()]));
    world.until_records(9).await;
    for mark in world.all("read_marks").await {
        let fields: Vec<_> = mark.keys().map(String::as_str).collect();
        assert_eq!(fields, ["_id", "purge_at"], "a mark names nobody");
        assert!(!text(&mark, "_id").contains("token"), "{mark}");
    }

    // Follow the links from page to page, on both paths.
    for path in [MOVED, "/api/notifications/reschedules/"] {
        let mut next = Some(format!("{path}?page_size=3&leida=false"));
        let mut found = Vec::new();
        while let Some(path) = next {
            let page = get(&usher, ANA, &path);
            let all = page["notificaciones"].as_array().unwrap().iter();
            found.extend(all.map(|one| one["reserva_id"].as_str().unwrap().to_owned()));
            let rest = |link: &str| link.split_once("127.0.0.1").map(|(_, path)| path.to_owned());
            next = page["next"].as_str().map(|link| rest(link).expect("a link to here"));
        }
        assert_eq!(found, ["B-4", "B-3", "B-2"], "{path}");
    }

    let metrics = get(&usher, ANA, "/api/notificaciones/metricas/");
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
    assert!(
        metrics["tiempo_envio_ms"]["max"].as_f64() >= metrics["tiempo_envio_ms"]["p50"].as_f64()
    );
    let days = &metrics["por_dia"];
    assert_eq!(days.as_array().unwrap().len(), 8, "a week ago to today");
    assert_eq!(sum(days, "total_reprogramaciones"), 4);
    assert_eq!(sum(days, "notificaciones_enviadas"), 2);
    let before = get(&usher, ANA, "/api/notifications/metrics/?desde=2025-01-01&hasta=2025-01-02");
    assert_eq!(
        before["periodo"],
        json!({"desde": "2025-01-01T00:00:00Z", "hasta": "2025-01-03T00:00:00Z"})
    );
    assert_eq!((&before["tasa_entrega"], &before["tiempo_envio_ms"]), (&json!(0.0), &Value::Null));

    let mail = get(&usher, ANA, "/api/v1/transacciones/estadisticas/correos");
    // Two mails to Juan, one to Kim, and the admin's copies of three moves.
    assert_eq!(mail["total_correos_enviados"], 6, "{mail}");
    assert_eq!(mail["correos_prioridad_alta"], 3);
    assert_eq!(mail["correos_por_prioridad"], json!({"high": 3, "medium": 3, "low": 0}));
    assert_eq!((&mail["correos_fallidos"], &mail["tasa_exito"]), (&json!(3), &json!(66.67)));
    assert!(mail["correos_en_cola"].is_u64() && mail["fecha_ultima_actualizacion"].is_string());
    assert!(mail["tiempo_promedio_procesamiento_ms"].as_f64() > Some(0.0));
    assert_eq!(sum(&mail["por_dia"], "enviados"), 6);

    let about = get(&usher, ANA, "/api/notifications/?reserva_id=B-1");
    assert_eq!(about["count"], 3);
    let newest = &about["results"][0];
    assert_eq!(
        (&newest["tipo"], &newest["destinatario"]),
        (&json!("booking.confirmed"), &json!("juan@example.com"))
    );

    // An erased customer has no name any more.
    let erase = ["audit", "erase", "--recipient", "juan@example.com", "--reason", "asked", "--yes"];
    run(&settings, 0, &erase).await;
    let list = get(&usher, ANA, &format!("{MOVED}?reserva_id=B-1"));
    let nobody = json!({"nombre": null, "email": null});
    assert_eq!(
        (&list["notificaciones"][0]["cliente"], &list["notificaciones"][0]["leida"]),
        (&nobody, &json!(true))
    );

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
        let answer = ask(&usher, ANA, method, &format!("{MOVED}{path}"), body.as_ref());
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(
            answer.body.contains(words) || answer.json().to_string().contains(words),
            "{answer:?}"
        );
    }
    for path in [MOVED, "/api/notifications/metrics/", "/api/v1/transactions/statistics/emails"] {
        assert_eq!(ask(&usher, "nobody's token", "GET", path, None).status, 401, "{path}");
    }
    let answer = ask(
        &usher,
        ANA,
        "POST",
        "/api/v1/transactions/process-emails",
        Some(&json!({"batch_size": 10})),
    );
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.body.contains("STREAM_URL"), "{answer:?}");

    let since = Some(Timestamp::now() - SignedDuration::from_hours(1));
    let routes = Some(vec!["booking-rescheduled".to_owned()]);
    let list = Filter { routes, since, ..Filter::default() };
    assert_uses_an_index(&world, "deliveries", &list.to_document(), &doc! {"at": 1}).await;
    let about = Filter { booking: Some("B-1".to_owned()), ..Filter::default() };
    assert_uses_an_index(&world, "deliveries", &about.to_document(), &doc! {}).await;
    assert_uses_an_index(&world, "deliveries", &doc! {"event.id": {"$in": ["a", "b"]}}, &doc! {})
        .await;
    assert_uses_an_index(&world, "read_marks", &doc! {"_id": "reader/delivery"}, &doc! {}).await;
}
