// What the page says, in the browser's language: English, or Spanish where that is asked for first.

const EN = {
  skip: "Skip to content",
  support: "Support",
  signIn: "Sign in",
  signOut: "Sign out",
  token: "Access token",
  tokenHint: "With the access token that you were given.",
  tokenWrong: "This token is not known. Check that it was copied whole.",
  connecting: "Connecting",
  isLive: "Live",
  again: "Reconnecting",
  moved: "Rescheduled bookings",
  movedEmpty: "Nothing new. Bookings that are moved appear here.",
  unread: "unread",
  read: "Mark as read",
  readOf: (booking) => `Mark as read: booking ${booking}`,
  readAll: "Mark all as read",
  more: "Show more",
  bookingOf: (id) => `Booking ${id}`,
  from: "from",
  to: "to",
  by: (who) => `by ${who}`,
  find: "Find a booking",
  booking: "Booking number",
  search: "Search",
  searching: "Searching…",
  found: (count, id) => (count === 1 ? `1 message about booking ${id}` : `${count} messages about booking ${id}`),
  foundFirst: (shown, count, id) => `The newest ${shown} of ${count} messages about booking ${id}`,
  foundNone: (id) => `Nothing was sent about booking ${id}. Check the number; letters count as they are written.`,
  erased: "(erased)",
  live: "Live",
  liveEmpty: "Waiting for the next message. What usher sends appears here at once.",
  liveGap: "What happened in between is not known here. Search by booking to see it.",
  show: "Show",
  showAll: "Everything",
  showMoved: "Reschedules",
  showProblems: "Problems",
  delivery: "Delivery",
  of: "Of",
  ofMail: "All mail",
  period: "Period",
  week: "7 days",
  month: "30 days",
  quarter: "90 days",
  rate: "Delivery rate",
  sent: "Delivered",
  unsent: "Not delivered",
  perDay: "Each day",
  day: "Day",
  errors: "Errors by kind",
  kind: "Kind",
  number: "Number",
  noErrors: "No errors in this period.",
  noMail: "Nothing was sent in this period.",
  asTable: "Show as a table",
  chartOf: (days, sent, unsent) => `${days} days: ${sent} delivered, ${unsent} not delivered`,
  failed: "usher could not answer. Try again in a moment.",
  toasts: "New reschedules",
  toastTitle: (id) => `Reschedule: booking ${id}`,
  toastText: (name) => `${name} rescheduled this booking`,
  someone: "A customer",
  close: "Close",
  attempt: (number) => `attempt ${number}`,
  channels: { email: "email", sms: "text message" },
  states: {
    sent: "Sent", simulated: "Simulated", retrying: "Will be retried", failed: "Failed", unknown: "Unclear",
    suppressed: "Not sent", superseded: "Overtaken", rejected: "Not understood",
  },
  events: {
    "booking.confirmed": "Booking confirmed", "booking.cancelled": "Booking cancelled",
    "booking.rescheduled": "Booking rescheduled", "booking.reminder": "Reminder", "payment.success": "Payment received",
    "payment.failed": "Payment failed", "payment.refund": "Refund", "auth.login": "Sign-in notice",
    "auth.password_reset_requested": "Password reset", "auth.account_locked": "Account locked",
    "auth.password_changed": "Password changed", "auth.unusual_activity": "Unusual activity",
    "auth.account_expiring": "Account expires", "auth.two_factor_code": "Security code",
    "contact.submitted": "Contact request", "notification.requested": "Notification",
    confirmacion_compra: "Purchase confirmed", cancelacion_compra: "Purchase cancelled", recordatorio_funcion: "Reminder",
  },
  errorKinds: {
    refused: "Refused by the mail server", deferred: "Put off by the mail server", unavailable: "Mail server unreachable",
    interrupted: "Connection broke", retries_exhausted: "Gave up after retries", unknown: "No reply was read",
    missing_variable: "Data missing in the event", invalid_variable: "Wrong data in the event",
    missing_recipient: "No address", invalid_recipient: "Invalid address", unreachable_recipient: "Address can't be reached",
    invalid_attachment: "Invalid attachment", template: "Template error", rejected: "Not understood",
  },
};

const ES = {
  skip: "Ir al contenido",
  support: "Soporte",
  signIn: "Iniciar sesión",
  signOut: "Cerrar sesión",
  token: "Token de acceso",
  tokenHint: "Con el token de acceso que le entregaron.",
  tokenWrong: "Este token no es válido. Compruebe que lo copió completo.",
  connecting: "Conectando",
  isLive: "En vivo",
  again: "Reconectando",
  moved: "Reservas reprogramadas",
  movedEmpty: "Nada nuevo. Aquí aparecen las reservas que se reprograman.",
  unread: "sin leer",
  read: "Marcar como leída",
  readOf: (booking) => `Marcar como leída: reserva ${booking}`,
  readAll: "Marcar todas como leídas",
  more: "Mostrar más",
  bookingOf: (id) => `Reserva ${id}`,
  from: "de",
  to: "a",
  by: (who) => `por ${who}`,
  find: "Buscar una reserva",
  booking: "Número de reserva",
  search: "Buscar",
  searching: "Buscando…",
  found: (count, id) => (count === 1 ? `1 mensaje sobre la reserva ${id}` : `${count} mensajes sobre la reserva ${id}`),
  foundFirst: (shown, count, id) => `Los ${shown} más recientes de ${count} mensajes sobre la reserva ${id}`,
  foundNone: (id) => `No se envió nada sobre la reserva ${id}. Compruebe el número; las mayúsculas cuentan.`,
  erased: "(borrado)",
  live: "En vivo",
  liveEmpty: "A la espera del próximo mensaje. Lo que usher envía aparece aquí al instante.",
  liveGap: "Lo ocurrido entretanto no se conoce aquí. Búsquelo por reserva.",
  show: "Mostrar",
  showAll: "Todo",
  showMoved: "Reprogramaciones",
  showProblems: "Problemas",
  delivery: "Entregas",
  of: "De",
  ofMail: "Todo el correo",
  period: "Período",
  week: "7 días",
  month: "30 días",
  quarter: "90 días",
  rate: "Tasa de entrega",
  sent: "Entregados",
  unsent: "No entregados",
  perDay: "Cada día",
  day: "Día",
  errors: "Errores por tipo",
  kind: "Tipo",
  number: "Cantidad",
  noErrors: "Sin errores en este período.",
  noMail: "No se envió nada en este período.",
  asTable: "Mostrar como tabla",
  chartOf: (days, sent, unsent) => `${days} días: ${sent} entregados, ${unsent} no entregados`,
  failed: "usher no pudo responder. Inténtelo de nuevo en un momento.",
  toasts: "Reprogramaciones nuevas",
  toastTitle: (id) => `Reprogramación: reserva ${id}`,
  toastText: (name) => `${name} reprogramó esta reserva`,
  someone: "Un cliente",
  close: "Cerrar",
  attempt: (number) => `intento ${number}`,
  channels: { email: "correo", sms: "mensaje de texto" },
  states: {
    sent: "Enviado", simulated: "Simulado", retrying: "Se reintentará", failed: "Fallido", unknown: "Incierto",
    suppressed: "No enviado", superseded: "Superado", rejected: "No entendido",
  },
  events: {
    "booking.confirmed": "Reserva confirmada", "booking.cancelled": "Reserva cancelada",
    "booking.rescheduled": "Reserva reprogramada", "booking.reminder": "Recordatorio", "payment.success": "Pago recibido",
    "payment.failed": "Pago fallido", "payment.refund": "Reembolso", "auth.login": "Aviso de acceso",
    "auth.password_reset_requested": "Restablecer contraseña", "auth.account_locked": "Cuenta bloqueada",
    "auth.password_changed": "Contraseña cambiada", "auth.unusual_activity": "Actividad inusual",
    "auth.account_expiring": "Cuenta por vencer", "auth.two_factor_code": "Código de seguridad",
    "contact.submitted": "Mensaje de contacto", "notification.requested": "Notificación",
    confirmacion_compra: "Compra confirmada", cancelacion_compra: "Compra cancelada", recordatorio_funcion: "Recordatorio",
  },
  errorKinds: {
    refused: "Rechazado por el servidor de correo", deferred: "Aplazado por el servidor de correo",
    unavailable: "Servidor de correo inaccesible", interrupted: "Conexión interrumpida",
    retries_exhausted: "Abandonado tras reintentos", unknown: "No se leyó respuesta",
    missing_variable: "Faltan datos en el evento", invalid_variable: "Datos erróneos en el evento",
    missing_recipient: "Sin dirección", invalid_recipient: "Dirección no válida",
    unreachable_recipient: "Dirección inalcanzable", invalid_attachment: "Adjunto no válido",
    template: "Error de plantilla", rejected: "No entendido",
  },
};

const asked = navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag === "en" || tag === "es");
export const language = asked ?? "en";
export const t = language === "es" ? ES : EN;

// The browser's own variant (en-GB, es-MX) decides how numbers and dates are written.
const locale = navigator.languages.find((tag) => tag.startsWith(language)) ?? language;
const number = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
const moment = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const onWrittenClock = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });
const dayOfMonth = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", timeZone: "UTC" });

export const ofNumber = (value) => number.format(value);
export const ofRate = (value) => (value == null ? "–" : `${number.format(value)} %`);
export const ofDay = (day) => dayOfMonth.format(new Date(`${day}T00:00:00Z`));

const isToday = (date) => date.toDateString() === new Date().toDateString();

/** A moment that usher recorded: only the clock's time if it was today. */
export function ofMoment(time) {
  const date = new Date(time);
  return (isToday(date) ? clock : moment).format(date);
}

/** A time as an event has it, which may be any text: on the clock that it was written by, as in the customer's mail. */
export function ofEventTime(time) {
  const onClock = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)/.exec(time ?? "");
  const date = onClock ? new Date(`${onClock[1]}T${onClock[2]}Z`) : new Date(NaN);
  return Number.isNaN(date.getTime()) ? (time ?? "–") : onWrittenClock.format(date);
}

const spelled = (words, word) => words[word] ?? word;
export const ofState = (state) => spelled(t.states, state);
export const ofEvent = (kind) => spelled(t.events, kind);
export const ofError = (kind) => spelled(t.errorKinds, kind);

/** Puts the words in their places. */
export function translate() {
  document.documentElement.lang = language;
  for (const place of document.querySelectorAll("[data-t]")) place.textContent = t[place.dataset.t];
  for (const place of document.querySelectorAll("[data-t-label]")) place.ariaLabel = t[place.dataset.tLabel];
}
