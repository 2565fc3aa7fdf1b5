//! Writes the manual page of `cobalt-docker-plugin` into a folder, made from the same arguments
//! that the program reads: `cargo run -p cobalt-docker-plugin --example manual -- FOLDER`.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;
use cobalt_docker_plugin::args::Args;

/// What the arguments cannot tell.
const MORE: &str = r#".SH FILES
.TP
/etc/cobalt/docker\-plugin.env
What the unit cobalt\-docker\-plugin.service gives it: its options as environment variables.
.TP
/run/docker/plugins/cobalt.sock
Where dockerd finds it. With systemd, cobalt\-docker\-plugin.socket makes it.
.TP
/var/lib/cobalt\-docker\-plugin/mounts/
The volumes that containers of this host use are mounted here. Never remove anything in it: what
is seen there is the volumes' own data.
.SH SWARM
A Swarm places services with cobalt volumes only on nodes where the plugin was used since docker
was started. systemctl enable cobalt\-docker\-plugin\-swarm.service sees to that.
.SH SEE ALSO
cobaltd(8), cobalt(1), docker\-volume\-create(1)
"#;

fn main() -> io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("name the folder to write into"));
    };
    std::fs::create_dir_all(&folder)?;
    let mut file = File::create(folder.join("cobalt-docker-plugin.8"))?;
    Man::new(Args::command()).section("8").manual("Cobalt").render(&mut file)?;
    file.write_all(MORE.as_bytes())
}
