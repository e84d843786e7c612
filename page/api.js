// Requests to usher. Whoever is not signed in (any more) is asked to.

export class Refused extends Error {}

/** usher's reason why something is not done. */
export class Problem extends Error {
  constructor(path, status, detail) {
    super(`${path}: ${status}`);
    Object.assign(this, { status, detail });
  }
}

const LONGEST = 75_000;

let onSignedOut = () => {};
export const whenSignedOut = (action) => (onSignedOut = action);

async function ask(path, options = {}) {
  // No answer is waited for longer than usher takes for one.
  const signal = AbortSignal.timeout(LONGEST);
  const answer = await fetch(path, { credentials: "same-origin", cache: "no-store", signal, ...options });
  if (answer.status === 401) {
    onSignedOut();
    throw new Refused();
  }
  if (!answer.ok) {
    const { detail } = await answer.json().catch(() => ({}));
    throw new Problem(path, answer.status, detail);
  }
  return answer.status === 204 ? null : answer.json();
}

const send = (path, method, body, headers = {}) =>
  ask(path, { method, headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });

export const session = () => ask("/api/session");
export const signIn = (token) => send("/api/session", "POST", { token });
export const signOut = () => send("/api/session", "DELETE", {});

const MOVES = "/api/notificaciones/reprogramaciones/";

/** Rescheduled bookings that were not read. */
export const unread = (page) => ask(`${MOVES}?leida=false&page=${page}`);
export const markRead = (ids) => send(`${MOVES}leidas/`, "POST", { ids });
export const markAllRead = ({ desde, hasta }) => send(`${MOVES}leidas/`, "POST", { desde, hasta });

/** What was sent about a booking. */
export const about = (booking) => ask(`/api/notificaciones/?${new URLSearchParams({ reserva_id: booking })}`);

/** Deliveries by `recipient`, `event` or `message_id`. */
export const deliveries = (of) => ask(`/api/v1/deliveries?${new URLSearchParams(of)}`);
export const oneDelivery = (id) => ask(`/api/v1/deliveries/${id}`);
export const mailOf = (id) => ask(`/api/v1/deliveries/${id}/mail`);

/** What works and what waits. */
export const status = () => ask("/api/v1/status");

/** A name for a request. `crypto.randomUUID` is there only by https. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Sends a mail once more. */
export const resend = (id, reason, key) => send(`/api/v1/deliveries/${id}/resend`, "POST", { reason }, { "idempotency-key": key });

/** Planned mail, of a booking or to an address. */
export function planned(of, page) {
  const query = new URLSearchParams({ page });
  if (of) query.set(of.includes("@") ? "recipient" : "booking", of);
  return ask(`/api/v1/scheduled?${query}`);
}
export const decidePlanned = (id, decision, reason, key) => send(`/api/v1/scheduled/${id}/${decision}`, "POST", { reason }, { "idempotency-key": key });

/** What waits for an operator in a queue, of one cause if one is given; as many on a page as the API gives. */
export function letters(queue, { error, detail, page }) {
  const query = new URLSearchParams({ page: page ?? 1, page_size: error ? 100 : 1 });
  if (error) query.set("error", error);
  if (detail) query.set("detail", detail);
  return ask(`/api/v1/dead-letters/${queue}?${query}`);
}
export const decideLetters = (queue, decision, ids, reason, outcome) => send(`/api/v1/dead-letters/${queue}/${decision}`, "POST", { ids, reason, outcome });

/** How delivery went in the last days, of all mail or of reschedules. */
export async function delivery(of, days) {
  const path = of === "moves" ? "/api/notificaciones/metricas/" : "/api/v1/transacciones/estadisticas/correos";
  const desde = new Date(Date.now() - (days - 1) * 86_400_000).toISOString().slice(0, 10);
  const told = await ask(`${path}?desde=${desde}`);
  const perDay = told.por_dia.map((day) => ({
    day: day.fecha,
    sent: day.enviados ?? day.notificaciones_enviadas,
    unsent: day.fallidos ?? day.total_reprogramaciones - day.notificaciones_enviadas,
  }));
  const kinds = new Map();
  for (const { tipo, cantidad } of told.errores_por_tipo) kinds.set(tipo, (kinds.get(tipo) ?? 0) + cantidad);
  return {
    rate: told.tasa_exito ?? (told.total_reprogramaciones ? told.tasa_entrega : null),
    sent: told.total_correos_enviados ?? told.notificaciones_enviadas,
    unsent: told.correos_fallidos ?? told.notificaciones_fallidas,
    perDay,
    errors: [...kinds].map(([kind, count]) => ({ kind, count })).sort((a, b) => b.count - a.count),
  };
}
