//! `pki`: a cluster's own certificate authority.

use crate::args::PkiCommand;
use crate::error::{Exit, Failure};
use crate::output::note;
use crate::pki::{Authority, IdentityKind, Subject};

pub(super) fn run(command: PkiCommand) -> Result<(), Failure> {
    match command {
        PkiCommand::Init { dir, cluster, force } => {
            Authority::create(&dir, &cluster, force)?;
            note(&format!("{} and {}", dir.join("ca.crt").display(), dir.join("ca.key").display()));
        }
        PkiCommand::Issue { dir, kind, name, role, san, days, force } => {
            let subject = match (kind, role) {
                (IdentityKind::Node, None) if san.is_empty() => {
                    return Err(
                        Failure::new(Exit::Usage, "a node's certificate needs its addresses").hint("name each with --san")
                    );
                }
                (IdentityKind::Node, None) => Subject::Node { name: &name, addresses: &san },
                (IdentityKind::Node, Some(_)) => return Err(Failure::new(Exit::Usage, "a node has no role")),
                (IdentityKind::User, Some(role)) => Subject::User { name: &name, role },
                (IdentityKind::User, None) => return Err(Failure::new(Exit::Usage, "a user needs a role")),
            };
            Authority::load(&dir)?.issue(&dir, &subject, days, force)?;
            note(&format!("{} and {}", dir.join(format!("{name}.crt")).display(), dir.join(format!("{name}.key")).display()));
        }
    }
    Ok(())
}
