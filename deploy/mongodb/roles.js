// Creates the roles for usher's database. Run it with mongosh:
//
//   mongosh "mongodb://admin@HOST/usher?authSource=admin" deploy/mongodb/roles.js
//
// Run it again to bring the roles up to date. Create users by hand, for example:
//
//   db.createUser({user: "usher", pwd: passwordPrompt(), roles: ["usherWriter"]})
//   db.createUser({user: "setup", pwd: passwordPrompt(), roles: ["usherSetup"]})
//   db.createUser({user: "ops", pwd: passwordPrompt(), roles: ["usherOperator"]})
//   db.createUser({user: "dpo", pwd: passwordPrompt(), roles: ["usherEraser"]})
//   db.createUser({user: "auditor", pwd: passwordPrompt(), roles: ["usherAuditor"]})
//   db.createUser({user: "bounces", pwd: passwordPrompt(), roles: ["usherReceipts"]})
//
// usherWriter   the daemon: adds records and never changes one; stores receipts and what follows from them. changeStream is for
//               the live feed (MongoDB gives one stream of records and receipts only to who may read the whole database), actions
//               for mail that is sent once more by the API.
// usherSetup    the command setup: creates indexes, the validator and the view, once for each new version. Never give it to
//               the daemon: an index can delete records by their age, and a changed validator lets other records in.
// usherOperator the commands dead-letters, poison, parked, scheduled and templates, and everything of usherAuditor.
// usherReceipts the command receipts ingest.
// usherEraser   the command audit erase; the only role that may change records.
// usherAuditor  reads; the commands audit find, show, stats, export and verify.

const ROLES = [
  {
    "role": "usherWriter",
    "privileges": [
      ["deliveries", "find", "insert", "changeStream"],
      ["actions", "find", "insert"],
      ["planned", "find", "insert", "update"],
      ["bookings", "find", "insert", "update"],
      ["requests", "find", "insert", "update"],
      ["counters", "find", "insert", "update"],
      ["erasures", "find"],
      ["instances", "find", "insert", "update"],
      ["email_templates", "find"],
      ["template_versions", "find", "insert"],
      ["read_marks", "find", "insert"],
      ["receipts", "find", "insert", "update"],
      ["suppressions", "find", "insert", "update"],
      ["checkpoints", "find", "insert"],
      ["chain_voids", "find", "insert"],
      ["leases", "find", "insert", "update"],
      ["", "find", "changeStream", "listCollections", "listIndexes"]
    ],
    "roles": []
  },
  {
    "role": "usherSetup",
    "privileges": [["", "createCollection", "createIndex", "collMod", "listCollections", "listIndexes"]],
    "roles": []
  },
  {
    "role": "usherAuditor",
    "privileges": [
      ["deliveries", "find"],
      ["delivery_status", "find"],
      ["actions", "find"],
      ["planned", "find"],
      ["bookings", "find"],
      ["requests", "find"],
      ["counters", "find"],
      ["erasures", "find"],
      ["email_templates", "find"],
      ["template_versions", "find"],
      ["read_marks", "find"],
      ["receipts", "find"],
      ["suppressions", "find"],
      ["checkpoints", "find"],
      ["chain_voids", "find"]
    ],
    "roles": []
  },
  {
    "role": "usherOperator",
    "privileges": [
      ["actions", "insert"],
      ["planned", "update"],
      ["suppressions", "insert", "update"],
      ["email_templates", "insert", "update"]
    ],
    "roles": ["usherAuditor"]
  },
  {
    "role": "usherReceipts",
    "privileges": [
      ["deliveries", "find"],
      ["receipts", "find", "insert"],
      ["suppressions", "find", "insert", "update"]
    ],
    "roles": []
  },
  {
    "role": "usherEraser",
    "privileges": [
      ["deliveries", "update"],
      ["receipts", "update"],
      ["planned", "remove"],
      ["requests", "remove"],
      ["bookings", "update"],
      ["actions", "insert", "update"],
      ["erasures", "insert", "update"]
    ],
    "roles": ["usherAuditor"]
  }
];

for (const { role, privileges, roles } of ROLES) {
  const granted = privileges.map(([collection, ...actions]) => ({
    resource: { db: db.getName(), collection },
    actions,
  }));
  if (db.getRole(role)) {
    db.updateRole(role, { privileges: granted, roles });
  } else {
    db.createRole({ role, privileges: granted, roles });
  }
  print(`${role}: done`);
}
