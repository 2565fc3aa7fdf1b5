//! Writes the manual pages of `cobaltd` and `cobalt` into a folder, made from the same arguments
//! that the programs read: `cargo run -p cobaltd --example manual -- FOLDER`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

/// What the arguments cannot tell.
const COBALTD: &str = r#".SH FILES
.TP
/etc/cobalt/cobaltd.env, /etc/cobalt/standalone.env
What the units cobaltd.service and cobaltd\-standalone.service give it: its options as
environment variables.
.TP
/run/cobalt/cobalt.sock
The API, for root.
.TP
/run/cobalt/nodes/
Which storage nodes run on this machine, for the Docker plugin.
.TP
/var/lib/cobalt/
State of cobaltd standalone: etcd's data and the pool. All volumes are in it.
.SH SIGNALS
SIGTERM and SIGINT end it within seconds. Containers that use volumes do not notice.
.SH SEE ALSO
cobalt(1), cobalt\-docker\-plugin(8), btrfs(8), systemctl(1)
"#;
const COBALT: &str = r#".SH SEE ALSO
cobaltd(8), cobalt\-docker\-plugin(8)
"#;

fn main() -> io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("name the folder to write into"));
    };
    std::fs::create_dir_all(&folder)?;
    write(&folder, cobaltd::args::Arguments::command(), "8", COBALTD)?;
    write(&folder, cobaltd::cli::Args::command(), "1", COBALT)
}

/// A page for the program and one for each of its commands.
fn write(folder: &Path, program: Command, section: &str, more: &str) -> io::Result<()> {
    let name = program.get_name().to_owned();
    let mut program = program.disable_help_subcommand(true);
    program.build();
    page(folder, program, &name, section, more)
}

fn page(folder: &Path, command: Command, name: &str, section: &str, more: &str) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let name = format!("{name}-{}", below.get_name());
        page(folder, below.clone(), &name, section, more)?;
    }
    let mut file = File::create(folder.join(format!("{name}.{section}")))?;
    let page = Man::new(command.display_name(name.to_owned()).name(name.to_owned()))
        .title(name)
        .section(section)
        .manual("Cobalt");
    page.render(&mut file)?;
    file.write_all(more.as_bytes())
}
