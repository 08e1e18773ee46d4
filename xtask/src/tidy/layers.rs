//! The layer table of docs/architecture.md as data, and its check: every path that starts at the crate's
//! root (or climbs to it by `super`) must lead to a module that the table allows.

use super::paths::{PathUse, paths};
use super::source::{self, InlineModule};
use super::{Finding, Tree, line_of, rust};

/// A module and those that it may import, itself aside.
struct Layer {
    module: &'static str,
    may: &'static [&'static str],
}

const CORES: &[&str] = &["limits", "base", "crypto", "wire"];
const BELOW_NODE: &[&str] = &[
    "limits", "base", "crypto", "wire", "session", "stream", "shape", "onion", "chunk", "tunnel", "overlay",
    "trust", "service",
];
const SHARD: &[&str] = &[
    "limits", "base", "crypto", "wire", "session", "stream", "shape", "onion", "chunk", "tunnel", "overlay",
    "trust", "service", "node", "sys", "io",
];
const SOCKS: &[&str] = &[
    "limits", "base", "crypto", "wire", "session", "stream", "shape", "onion", "chunk", "tunnel", "overlay",
    "trust", "service", "node", "sys", "io", "shard",
];
const ALL: &[&str] = &[
    "limits", "base", "crypto", "wire", "session", "stream", "shape", "onion", "chunk", "tunnel", "overlay",
    "trust", "service", "node", "sys", "io", "shard", "socks", "bridge", "config", "api", "cli",
];

const LAYERS: &[Layer] = &[
    Layer { module: "limits", may: &[] },
    Layer { module: "base", may: &["limits"] },
    Layer { module: "crypto", may: &["limits", "base"] },
    Layer { module: "wire", may: &["limits", "base", "crypto"] },
    Layer { module: "session", may: CORES },
    Layer { module: "stream", may: CORES },
    Layer { module: "shape", may: &["limits", "base"] },
    Layer { module: "onion", may: CORES },
    Layer { module: "chunk", may: CORES },
    Layer { module: "tunnel", may: CORES },
    Layer { module: "overlay", may: CORES },
    Layer { module: "trust", may: CORES },
    Layer {
        module: "service",
        may: &[
            "limits", "base", "crypto", "wire", "session", "stream", "shape", "onion", "chunk", "tunnel",
            "overlay", "trust",
        ],
    },
    Layer { module: "node", may: BELOW_NODE },
    Layer { module: "sys", may: &["limits", "base"] },
    Layer { module: "io", may: &["limits", "base", "crypto", "wire", "sys"] },
    Layer { module: "shard", may: SHARD },
    Layer { module: "socks", may: SOCKS },
    Layer { module: "bridge", may: &["limits", "base", "crypto", "wire", "sys"] },
    Layer { module: "config", may: BELOW_NODE },
    Layer {
        module: "api",
        may: &[
            "limits", "base", "crypto", "wire", "session", "stream", "shape", "onion", "chunk", "tunnel",
            "overlay", "trust", "service", "node", "sys", "io", "shard", "config",
        ],
    },
    Layer { module: "cli", may: ALL },
    Layer { module: "main", may: ALL },
    Layer {
        module: "sim",
        may: &[
            "limits", "base", "crypto", "wire", "session", "stream", "shape", "onion", "chunk", "tunnel",
            "overlay", "trust", "service", "node", "config", "api", "cli",
        ],
    },
];

/// Composes, and so names everything.
const ROOT: &str = "src/lib.rs";

/// The modules in which no clock, socket, file, thread or async is named.
pub const PURE: &[&str] = &[
    "limits", "base", "crypto", "wire", "session", "stream", "shape", "onion", "chunk", "tunnel", "overlay",
    "trust", "service", "node", "sim",
];

/// The rule.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in rust(tree, "src/") {
        if path == ROOT {
            continue;
        }
        let module = module_of(path);
        let own = module[0].as_str();
        let Some(layer) = LAYERS.iter().find(|layer| layer.module == own) else {
            let message = format!("module `{own}` has no row in docs/architecture.md and xtask's layers.rs");
            findings.push(Finding::new(path, 1, message));
            continue;
        };
        let code = source::strip(text);
        let inline = source::inline_modules(&code);
        let test_file = is_test_file(tree, path);
        for used in paths(&code) {
            let Some(target) = target(&used, &module, &inline) else { continue };
            let in_test = test_file || inline.iter().any(|m| m.test && m.body.contains(&used.at));
            // Hints to the processor change nothing, so cores may give them.
            let hint = used.parts.windows(2).any(|pair| pair == ["sys", "hint"]);
            let allowed =
                hint || target == own || layer.may.contains(&target.as_str()) || (in_test && target == "sim");
            if !allowed {
                let message = format!("`{own}` may not import `{target}` ({})", used.parts.join("::"));
                findings.push(Finding::new(path, line_of(&code, used.at), message));
            }
        }
    }
    findings
}

/// The table here, the one in docs/architecture.md and the modules that exist are the same.
pub fn check_map(tree: &Tree) -> Vec<Finding> {
    const MAP: &str = "docs/architecture.md";
    let Some(map) = tree.get(MAP) else { return vec![Finding::new(MAP, 1, "the map is missing")] };
    let named: Vec<String> =
        map.lines().filter(|line| line.starts_with("| `")).flat_map(first_cell_names).collect();
    let mut findings = Vec::new();
    for layer in LAYERS {
        if !named.iter().any(|name| name == layer.module) {
            findings.push(Finding::new(MAP, 1, format!("`{}` has no row in the layer table", layer.module)));
        }
    }
    let mut modules: Vec<String> = rust(tree, "src/").map(|(path, _)| module_of(path)[0].clone()).collect();
    modules.dedup();
    for module in modules.iter().filter(|module| *module != "lib") {
        if !LAYERS.iter().any(|layer| layer.module == module) {
            findings.push(Finding::new(MAP, 1, format!("src/{module} is not in the layer table")));
        }
    }
    findings
}

/// "| `a`, `b.rs` | …" → a, b
fn first_cell_names(row: &str) -> Vec<String> {
    let cell = row.trim_start_matches('|').split('|').next().unwrap_or_default();
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.map(|name| name.trim_end_matches(".rs").to_string()).collect()
}

/// `src/io/store/mod.rs` → io, store.
pub fn module_of(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    inside.split('/').map(str::to_string).collect()
}

/// Whether the whole file is compiled for tests only, by the declaration in its parent.
pub fn is_test_file(tree: &Tree, path: &str) -> bool {
    let module = module_of(path);
    (1..module.len()).any(|depth| {
        let parent = module[..depth].join("/");
        let files = [format!("src/{parent}.rs"), format!("src/{parent}/mod.rs")];
        let text = files.iter().find_map(|file| tree.get(file));
        text.is_some_and(|text| source::test_module_files(&source::strip(text)).contains(&module[depth]))
    })
}

/// The top module that a path leads to, if it leads out of the file's own place by `crate` or `super`.
fn target(used: &PathUse, module: &[String], inline: &[InlineModule]) -> Option<String> {
    let first = used.parts.first()?.as_str();
    let rest = match first {
        "crate" | "tornet" => &used.parts[1..],
        "super" => {
            let climbs = used.parts.iter().take_while(|part| *part == "super").count();
            let nested = inline.iter().filter(|m| m.body.contains(&used.at)).count();
            if climbs < module.len() + nested {
                return None;
            }
            &used.parts[climbs..]
        }
        _ => return None,
    };
    // `crate::{self}` and `crate::*` see everything.
    rest.first().cloned()
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        check(&tree(files)).into_iter().map(|f| format!("{}:{} {}", f.path, f.line, f.message)).collect()
    }

    #[test]
    fn a_core_may_not_see_its_neighbour_nor_the_edge() {
        for bad in [
            "use crate::stream::Stream;",
            "use crate::{base::Time, stream};",
            "fn f() { crate::io::clock::now(); }",
            "use super::super::io::X;",
            "use super::super::{base, sys::Ring};",
            "mod inner { use super::super::super::node; }",
            "use crate::*;",
            "#[cfg(test)] mod tests { use crate::io::x; }",
            "use crate::nowhere::X;",
            "use crate::sys::{hint, Ring};",
            "use crate::sys::ring::hint;",
        ] {
            assert_eq!(messages(&[("src/session/table.rs", bad)]).len(), 1, "{bad}");
        }
    }

    #[test]
    fn what_the_table_allows_passes() {
        let good = "//! [`crate::node`]\nuse crate::{base::Time, limits::X};\nuse super::super::wire::Y;\n\
                    use super::table2; use super::*; // crate::io\nlet s = \"crate::io\";\nuse crate::session::Z;\nuse crate::sys::hint::prefetch;\n\
                    #[cfg(test)] mod tests { use super::*; use crate::sim::Pair; }";
        assert_eq!(messages(&[("src/session/table.rs", good)]), [""; 0]);
    }

    #[test]
    fn only_tests_see_the_simulator() {
        assert_eq!(messages(&[("src/node/x.rs", "use crate::sim::Pair;")]).len(), 1);
        let parent = ("src/node/mod.rs", "#[cfg(test)] mod x;");
        assert_eq!(messages(&[parent, ("src/node/x.rs", "use crate::sim::Pair;")]), [""; 0]);
    }

    #[test]
    fn the_binary_reaches_the_library_by_its_name() {
        assert_eq!(messages(&[("src/main.rs", "fn main() { tornet::cli::main() }")]), [""; 0]);
        assert_eq!(messages(&[("src/main.rs", "use tornet::sim::X;")]).len(), 1);
    }

    #[test]
    fn a_new_module_needs_a_row() {
        assert_eq!(messages(&[("src/market/mod.rs", "")]).len(), 1);
        let map = LAYERS.iter().map(|l| format!("| `{}` | x |\n", l.module)).collect::<String>();
        let known =
            tree(&[("docs/architecture.md", map.as_str()), ("src/io/udp.rs", ""), ("src/lib.rs", "")]);
        assert_eq!(check_map(&known), []);
        let unknown = tree(&[("docs/architecture.md", map.as_str()), ("src/market/mod.rs", "")]);
        assert_eq!(check_map(&unknown).len(), 1);
        let missing = tree(&[("docs/architecture.md", map.replace("`io`", "io").as_str())]);
        assert_eq!(check_map(&missing).len(), 1);
    }
}
