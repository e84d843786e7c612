//! What every command that changes something asks for.

use clap::Args;

use crate::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct DecisionArgs {
    /// Reason, recorded in the audit.
    #[arg(long)]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) by: ByArgs,
    /// Do it without asking; otherwise only show what would be done.
    #[arg(long)]
    pub(super) yes: bool,
}

/// Printed where `--yes` is missing.
pub(super) const NOTHING_DONE: &str = "nothing was done; --yes does it";

#[derive(Debug, Args)]
pub(super) struct ByArgs {
    /// Person who decides, recorded in the audit; by default the user who is logged in.
    #[arg(long, env = "USHER_OPERATOR", value_name = "NAME")]
    by: Option<String>,
}

/// Names that tell nobody who it was.
const NOBODY: [&str; 5] = ["", "unknown", "root", "nobody", "usher"];

impl ByArgs {
    /// The person's name: as given, else `$SUDO_USER` or `$USER` where it is a person's.
    pub(super) fn name(&self) -> Result<String, Failure> {
        let logged_in =
            ["SUDO_USER", "USER"].into_iter().filter_map(|name| std::env::var(name).ok());
        person(self.by.clone(), logged_in)
    }
}

fn person(
    given: Option<String>,
    mut logged_in: impl Iterator<Item = String>,
) -> Result<String, Failure> {
    let name = given.or_else(|| logged_in.find(|name| !NOBODY.contains(&name.trim())));
    let name = name.map(|name| name.trim().to_owned()).unwrap_or_default();
    match name.as_str() {
        "" | "unknown" => {
            Err(Failure::data("nobody knows who decides: give your name by --by or USHER_OPERATOR"))
        }
        _ => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::person;

    #[test]
    fn a_decision_has_a_persons_name() {
        let name = |given: Option<&str>, logged_in: &[&str]| {
            let logged_in = logged_in.iter().map(|name| (*name).to_owned());
            person(given.map(ToOwned::to_owned), logged_in).ok()
        };
        assert_eq!(name(Some(" ana "), &["bob"]).as_deref(), Some("ana"));
        assert_eq!(name(Some("root"), &[]).as_deref(), Some("root"));
        assert_eq!(name(None, &["root", "bob"]).as_deref(), Some("bob"));
        for (given, logged_in) in
            [(None, &["root"][..]), (None, &[]), (Some(""), &["bob"]), (Some("unknown"), &["bob"])]
        {
            assert_eq!(name(given, logged_in), None, "{given:?} {logged_in:?}");
        }
    }
}
