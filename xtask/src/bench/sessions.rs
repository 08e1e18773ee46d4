//! `cargo xtask bench sessions`: very many sessions on one node (examples/plane/sessions.rs).

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::plane::Tools;
use super::{floor, machine, ratio};
use crate::args::Args;
use crate::sh;

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let count = args.number("--sessions", 100_000)?.clamp(1000, 250_000);
    let size = args.number("--size", 1350)?.clamp(100, 1472);
    let json = args.value("--json")?.map(PathBuf::from);
    let tool = args.value("--tool")?.map(PathBuf::from);
    args.finish()?;
    let tools = Tools::build(tool, false)?;
    let machine = machine::describe();
    println!("{}", machine::line(&machine));
    let mut command = std::process::Command::new(&tools.plane);
    let told: Value = serde_json::from_str(
        sh::read(command.args(["sessions", "0", &count.to_string(), &size.to_string()]))?.trim(),
    )?;
    println!("\n{}", table(&told)?);
    if let Some(path) = json {
        floor::write(&path, &json!({ "machine": machine, "sessions": told }))?;
    }
    Ok(())
}

fn table(told: &Value) -> Result<String> {
    let number = |path: &str| told.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let (many, few) = (number("/sessions"), number("/few"));
    let (own, floor) = (number("/handshakes_per_core_second"), number("/handshake_floor_per_core_second"));
    ensure!(own > 0.0, "no figures in {told}");
    let mut text = format!(
        "{many} sessions: {:.0} bytes each; {own:.0} handshakes per core-second, the Diffie-Hellman alone {floor:.0} \
         (÷ floor: {} times its cost)\n\n\
         | ns per packet | {few} sessions | {many} sessions | ratio |\n|---|--:|--:|--:|\n",
        number("/bytes_per_session"),
        ratio(floor, Some(own)),
    );
    for what in ["open", "seal"] {
        for how in ["trains", "singles"] {
            let of = |who: &str| number(&format!("/{what}_ns/{who}/{how}"));
            let name = if how == "trains" { "trains of 16" } else { "single datagrams" };
            let (few, many) = (of("few"), of("many"));
            text += &format!("| {what}, {name} | {few:.0} | {many:.0} | {} |\n", ratio(many, Some(few)));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_few_sessions_and_to_the_floor() {
        let ns = json!({ "few": { "trains": 200.0, "singles": 250.0 }, "many": { "trains": 220.0, "singles": 500.0 } });
        let told = json!({
            "sessions": 100000, "few": 10, "bytes_per_session": 2500.0,
            "handshakes_per_core_second": 6000.0, "handshake_floor_per_core_second": 9000.0,
            "open_ns": ns, "seal_ns": ns,
        });
        let table = table(&told).unwrap();
        assert!(table.contains("1.50 times its cost"), "{table}");
        assert!(table.contains("| open, single datagrams | 250 | 500 | 2.00 |"), "{table}");
        assert!(super::table(&json!({})).is_err());
    }
}
