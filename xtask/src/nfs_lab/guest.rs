//! A guest: Linux as a process of this machine (user-mode Linux), with its own kernel, network address and NFS client.

use super::plan::{Host, Job, Plan, SERVER};
use super::server::export;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

/// What follows the variables of a guest's first program.
const SCRIPT: &str = include_str!("guest.sh");

/// Memory of a guest; pages that it does not touch cost nothing.
const MEMORY: &str = "mem=768M";

/// What a guest says.
#[derive(Debug)]
pub(super) enum Said {
    /// A line on its console.
    Line(&'static str, String),
    /// It has ended.
    Ended(&'static str),
}

/// Boots a guest; its console's lines go to `sender` and into a log. It ends with the namespace of the lab's processes.
pub(super) fn boot(plan: &Plan, host: Host, jobs: &[Job], sender: Sender<Said>) -> Result<()> {
    let init = plan.folder.join(format!("init-{}", host.name));
    fs::write(&init, script(plan, host, jobs))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let mut console = Command::new("linux.uml")
        .env_clear()
        .env("LD_PRELOAD", &plan.registers)
        .args([MEMORY, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
        .args(["con=null", "con0=fd:0,fd:1"])
        .arg(format!(
            "vec0:transport=tap,ifname=tap{},depth=64,gro=1,mtu=65000,mac=02:00:00:00:00:{:02x}",
            host.name, host.octet
        ))
        .arg(format!("init={}", init.display()))
        .arg(format!("umid={}", host.name))
        .arg(format!("uml_dir={}", plan.folder.join("uml").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("linux.uml could not be started")?;
    let output = BufReader::new(console.stdout.take().context("linux.uml has no output")?);
    let mut log = File::create(plan.logs.join(format!("host-{}.log", host.name)))?;
    thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            // Without the log the lab still works.
            let _ = writeln!(log, "{line}");
            if sender.send(Said::Line(host.name, line)).is_err() {
                return;
            }
        }
        let _ = console.wait();
        let _ = sender.send(Said::Ended(host.name));
    });
    Ok(())
}

/// The first program of a guest.
fn script(plan: &Plan, host: Host, jobs: &[Job]) -> String {
    let mut text = String::from("#!/bin/bash\n");
    let export = export(plan);
    let variables = [
        ("HOST", host.name),
        ("ADDRESS", host.address),
        ("SERVER", SERVER),
        ("VERSION", &plan.version),
        ("OPTIONS", &plan.options),
        ("EXPORT", &export.to_string_lossy()),
        ("MODULES", &plan.modules.to_string_lossy()),
    ];
    for (name, value) in variables {
        let _ = writeln!(text, "{name}={}", quoted(value));
    }
    // The first job that fails decides, and the others run all the same.
    text.push_str("job() {\n    local status=0\n");
    for job in jobs {
        text.push_str("    ");
        for (name, value) in &job.environment {
            let _ = write!(text, "{name}={} ", quoted(value));
        }
        let words: Vec<String> = job.words.iter().map(|word| quoted(word)).collect();
        let _ = writeln!(text, "{} || status=$?", words.join(" "));
    }
    text.push_str("    return $status\n}\n");
    text.push_str(SCRIPT);
    text
}

/// For the shell: one word, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs_lab::plan::GUESTS;

    #[test]
    fn a_guests_script_is_shell_and_runs_every_job_with_its_words() {
        let job = |words: [&str; 3]| Job::new(words).with("KV_WORD", "it's");
        let plan = Plan {
            folder: "/lab".into(),
            logs: "/logs".into(),
            version: "3".into(),
            options: "lookupcache=positive".into(),
            modules: "/modules".into(),
            registers: "/registers".into(),
            a: vec![
                job(["sh", "-c", "echo \"$KV_WORD $KV_NFS_AGENT\"; exit 3"]),
                job(["echo", "two words", "$HOME"]),
            ],
            b: Vec::new(),
            both: false,
            limit: 1,
            keep: false,
            verbose: false,
        };
        let text = script(&plan, GUESTS[0], &plan.a);
        let (head, _) = text.split_once(SCRIPT).expect("it ends with the script");
        let output = Command::new("bash").args(["-c", &format!("{head}\njob; echo $?")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it's 10.99.0.12:7000\ntwo words $HOME\n3\n");
        let syntax = Command::new("bash").args(["-n", "-c", &text]).status().unwrap();
        assert!(syntax.success());
    }
}
