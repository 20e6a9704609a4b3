//! The project's tasks. `./x` sets up what they need and calls this program.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a tool on the developer's machine"
)]

mod bench;
mod bench_block;
mod bench_web;
mod guests;
mod iotests;
mod qtest;
mod run;
mod shell;
mod test;
mod web;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: ./x TASK [ARGS]

  run [ARGS]        build Orrery and run it; without ARGS, boot Debian's installer
  test              every check that CI makes; `test all` adds longer boots,
                    `test NAME..` runs the system tests with such names
  web [PORT]        build the page into www/dist and serve it
  node -- ARGS      run the wasm build in Node with the native command line
  bench cpu [i386|amd64] [--runs N] [--bench KERNEL,..] [--in native|node|chromium,..]
                    the benchmark guest on our engines and on installed peers, in turn
  bench machines [--count N] [--seconds VIRTUAL]
                    many machines at once, on one core and on all
  bench images [--count N] [--mib SIZE]
                    work on many images at once, beside an installed qemu-img
  bench block [--runs N] [--mib SIZE] [--only WORD] [--qemu-img PROGRAM] [--in FOLDER]
                    the image tool beside QEMU's, in pairs
  guests [NAME..]   fetch guest systems from distribution packages into guests/
  iotests TREE [FORMAT..]
                    run QEMU's image tests from its source tree against our tools
  qtest TREE [TEST..]
                    run QEMU's device tests from its build tree against our program
  fmt | clippy      format; lint for this host and for wasm32
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("help", &[][..]),
    };
    shell::enter_root()?;
    match task {
        "run" => run::run(rest),
        "bench" => bench::bench(rest),
        "guests" => guests::fetch(rest),
        "test" => test::test(rest),
        "web" => web::serve(rest),
        "web-build" => web::build(),
        "web-assemble" => web::assemble(),
        "iotests" => iotests::run(rest),
        "qtest" => qtest::run(rest),
        "node" => web::node(rest),
        "fmt" => shell::cargo(&["fmt", "--all"]),
        "clippy" => run::clippy(),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("there is no task '{other}'\n\n{USAGE}"),
    }
}
