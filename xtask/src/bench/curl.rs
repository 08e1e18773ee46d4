//! nginx and curl: what the kernel's TCP does with one file, in the open and under TLS.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::peer::{Contestant, Entry, Job, Sample, Settings, fetch, needs_file};
use crate::lab::{Process, node};
use crate::sh;

/// In the open: the unencrypted limit.
pub const PLAIN: Entry =
    Entry { name: "curl", protection: "none", version, prepare: |_, job| Nginx::prepare(job, false) };

/// Under TLS.
pub const TLS: Entry =
    Entry { name: "curl-tls", protection: "TLS 1.3", version, prepare: |_, job| Nginx::prepare(job, true) };

const NGINX: &str = "/usr/sbin/nginx";

struct Nginx {
    server: Process,
    url: String,
}

fn version(_: &Settings) -> Result<String> {
    let output = Command::new(NGINX).arg("-v").output()?;
    let nginx = String::from_utf8_lossy(&output.stderr).trim().replace("nginx version: ", "");
    let curl = sh::words("curl", &["--version"])?;
    Ok(format!("{nginx}, curl {}", curl.split_whitespace().nth(1).unwrap_or_default()))
}

impl Nginx {
    fn prepare(job: &Job, tls: bool) -> Result<Box<dyn Contestant>> {
        needs_file(NGINX, &["nginx-light"])?;
        needs_file("/usr/bin/curl", &["curl"])?;
        let (label, port) = if tls { ("nginx-tls", 4443) } else { ("nginx", 4080) };
        let dir = job.lab.make_dir(label)?;
        if tls {
            needs_file("/usr/bin/openssl", &["openssl"])?;
            certificate(&dir, &job.lab.a().address.to_string())?;
        }
        let root = job.input.parent().context("the input's folder")?;
        let config = dir.join("nginx.conf");
        std::fs::write(&config, configuration(&dir, root, port, tls))?;
        let mut command = job.lab.a().command(NGINX);
        command.arg("-p").arg(&dir).arg("-e").arg("stderr").arg("-c").arg(&config);
        let mut server = Process::start(label, job.lab.dir(), &mut command)?;
        let name = job.input.file_name().context("the input's name")?.to_string_lossy();
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}:{port}/{name}", job.lab.a().address);
        let mut failed = None;
        let up = crate::stop::until(node::PROMPT, || {
            if server.ended()? {
                failed = Some(server.stderr());
                return Ok(true);
            }
            let mut head = job.lab.b().command("curl");
            Ok(head.args(["-sfkI", &url, "-o", "/dev/null"]).status()?.success())
        })?;
        anyhow::ensure!(up && failed.is_none(), "nginx does not answer: {}", failed.unwrap_or_default());
        Ok(Box::new(Nginx { server, url }))
    }
}

impl Contestant for Nginx {
    fn run(&mut self, job: &Job, out: &Path) -> Result<Sample> {
        let mut command = job.lab.b().command("curl");
        command
            .args(["--silent", "--show-error", "--fail", "--insecure", "--output"])
            .arg(out)
            .arg(&self.url);
        fetch(job, "curl", &self.server, &mut command)
    }
}

/// One process, files sent by the kernel.
fn configuration(dir: &Path, root: &Path, port: u16, tls: bool) -> String {
    let (dir, root) = (dir.display(), root.display());
    let ssl = format!(
        "ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.3; \
         ssl_buffer_size 16k;"
    );
    let (flag, ssl) = if tls { (" ssl", ssl.as_str()) } else { ("", "") };
    format!(
        "daemon off; master_process off; user root; pid {dir}/pid;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n\
         access_log off; sendfile on; tcp_nopush on; client_body_temp_path {dir}/body;\n\
         proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;\n\
         scgi_temp_path {dir}/scgi;\n\
         server {{ listen {port}{flag}; {ssl} root {root}; }}\n\
         }}\n"
    )
}

fn certificate(dir: &Path, name: &str) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-days", "2", "-subj", &format!("/CN={name}")]);
    command.arg("-keyout").arg(dir.join("key.pem")).arg("-out").arg(dir.join("cert.pem"));
    sh::read(&mut command).map(drop)
}
