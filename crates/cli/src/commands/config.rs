//! `huitong config`: the documented default file, and the check of one's own.

use serde_json::json;

use crate::cli::{Config, Global};
use crate::commands::{config_path, load_config};
use crate::exit::Failure;
use crate::output::Output;

pub(crate) fn run(command: &Config, global: &Global, output: Output) -> Result<(), Failure> {
    match command {
        Config::ShowDefault => {
            let documented = huitong_node::config::DOCUMENTED;
            output.result(&json!({ "config": documented }), || documented.to_owned());
        }
        Config::Check => {
            let path = config_path(global)?;
            let config = load_config(global)?;
            let answer = json!({
                "config": path, "data_dir": config.data_dir, "admin": config.listen.admin,
                "peers": config.listen.peers.to_string(),
            });
            output.result(&answer, || {
                format!(
                    "{} is good: data in {}, peers at {}, admin socket {}",
                    path.display(),
                    config.data_dir.display(),
                    config.listen.peers,
                    config.listen.admin.display()
                )
            });
        }
    }
    Ok(())
}
