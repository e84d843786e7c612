// Renders templates with handlebars.js: what usher's are compared with. Reads a JSON list of
// { template, partials, data } and prints a list of { text } or { error }.
const Handlebars = require("handlebars");

// {{log}} writes here.
for (const name of ["log", "info", "warn", "error"]) console[name] = () => {};

const isTrue = (value) => value !== 0 && !Handlebars.Utils.isEmpty(value);
// The helpers of the handlebars crate, which handlebars.js leaves to its users.
const helpers = {
  eq: (one, other) => one === other,
  ne: (one, other) => one !== other,
  gt: (one, other) => one > other,
  lte: (one, other) => one <= other,
  and: (...values) => values.slice(0, -1).every(isTrue),
  or: (...values) => values.slice(0, -1).some(isTrue),
  not: (value) => !isTrue(value),
  raw: (options) => options.fn(),
};

function render({ template, partials, data }) {
  const library = Handlebars.create();
  library.registerHelper(helpers);
  library.registerPartial(partials);
  try {
    return { text: library.compile(template)(data) };
  } catch (error) {
    return { error: error.message.split("\n")[0] };
  }
}

process.stdin.setEncoding("utf8");
let input = "";
process.stdin.on("data", (chunk) => (input += chunk));
process.stdin.on("end", () => process.stdout.write(JSON.stringify(JSON.parse(input).map(render))));
