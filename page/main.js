// The page for support: signs in where that is needed, then shows the desk.

import * as act from "./act.js";
import { Refused, session, signIn, signOut, whenSignedOut } from "./api.js";
import * as banner from "./banner.js";
import * as delivery from "./delivery.js";
import { $ } from "./dom.js";
import * as find from "./find.js";
import * as letters from "./letters.js";
import * as live from "./live.js";
import * as moves from "./moves.js";
import * as planned from "./planned.js";
import * as one from "./one.js";
import { toast } from "./toast.js";
import { arrow, ofEventTime, t, translate } from "./words.js";

const REFRESH = 5 * 60_000;
const ALARMS = 30_000;
// Many reschedules at once are asked about once.
const GATHER = 300;

let timers = [];
let gathering;
// Without tokens there is nothing to sign out of. No script can see the cookie itself.
const SIGNED_IN = "usher-signed-in";

function openDesk(role = null) {
  act.allow(role);
  $("sign-in").hidden = true;
  one.show();
  $("sign-out").hidden = localStorage.getItem(SIGNED_IN) === null;
  refresh();
  letters.reload();
  live.listen({ moved, gap: refresh });
  timers = [setInterval(delivery.reload, REFRESH), setInterval(banner.reload, ALARMS)];
}

function refresh() {
  banner.reload();
  moves.reload();
  planned.reload();
  delivery.reload();
}

function moved({ reserva_id: booking, cliente_nombre: name, fecha_nueva: date }) {
  const text = t.toastText(name ?? t.someone) + (date ? ` ${arrow} ${ofEventTime(date)}` : "");
  toast(t.toastTitle(booking ?? "–"), text);
  clearTimeout(gathering);
  gathering = setTimeout(refresh, GATHER);
}

function askToSignIn() {
  localStorage.removeItem(SIGNED_IN);
  timers.forEach(clearInterval);
  live.stop();
  for (const id of ["desk", "sign-out", "status"]) $(id).hidden = true;
  for (const id of ["moves", "found", "found-text", "tiles", "toasts"]) $(id).replaceChildren();
  for (const part of [act, banner, delivery, letters, live, one, planned]) part.forget();
  $("sign-in").hidden = false;
  $("token").focus();
}

$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const error = $("sign-in-error");
  error.textContent = "";
  try {
    await signIn($("token").value.trim());
    $("token").value = "";
    localStorage.setItem(SIGNED_IN, "yes");
    openDesk((await session()).role);
    if (!one.named()) $("main").focus();
  } catch (refused) {
    error.textContent = refused instanceof Refused ? t.tokenWrong : t.failed;
    $("token").focus();
  }
});

$("sign-out").addEventListener("click", async () => {
  await signOut();
  askToSignIn();
});

translate();
moves.start();
find.start();
live.start();
act.start();
planned.start();
letters.start();
delivery.start();
whenSignedOut(askToSignIn);
addEventListener("hashchange", () => $("sign-in").hidden && one.show());
session().then(({ role }) => openDesk(role), (error) => {
  // Each part reports itself that usher does not answer.
  if (!(error instanceof Refused)) openDesk();
});
