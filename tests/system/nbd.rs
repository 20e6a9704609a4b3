//! Our NBD server with other people's clients, and our client with other people's servers, with and
//! without TLS. Each test is a line of shell in a folder with a disk `d.raw`; `$O` is the program under
//! test, and a server that leaves its number in `pid` is ended with the test.

use crate::Test;
use crate::program::{Folder, Output, orrery, tool};
use anyhow::{Result, ensure};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

/// Certificates of a server called `localhost` and of a client, in `tls`.
const CERTIFICATES: &str = r#"
mkdir tls; cd tls
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca-key.pem -out ca-cert.pem -subj /CN=ca \
    -addext keyUsage=critical,keyCertSign 2>log
for end in server client; do
    openssl req -newkey rsa:2048 -nodes -keyout $end-key.pem -out $end.csr -subj /CN=$end 2>>log
    printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=%sAuth\n' $end >$end.ext
    openssl x509 -req -in $end.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 \
        -extfile $end.ext -out $end-cert.pem 2>>log
done
cd ..
"#;

const OURS: &str = r#""$O" nbd --fork --pid-file=pid -t -e 0 -k s.sock -f raw d.raw"#;
const OURS_TLS: &str = r#""$O" nbd --fork --pid-file=pid -t -e 0 -k s.sock -f raw \
    --object tls-creds-x509,id=t,endpoint=server,dir=tls --tls-creds t d.raw"#;
const QEMU_TLS: &str = r#"qemu-nbd --fork --pid-file=$PWD/pid -t -e 0 -k $PWD/s.sock -f raw \
    --object tls-creds-x509,id=t,endpoint=server,dir=tls --tls-creds t d.raw"#;
const NBDKIT_TLS: &str = "nbdkit -U s.sock -P pid --tls=require --tls-certificates=$PWD/tls --tls-verify-peer file d.raw";

/// What a client of QEMU's kind does with an encrypted server.
const CLIENT_TLS: &str = r#"
tls="--object tls-creds-x509,id=t,endpoint=client,dir=tls"
there=driver=nbd,path=s.sock,tls-creds=t,tls-hostname=localhost
copy() { $1 convert $tls --image-opts driver=raw,file.${there//,/,file.} -O raw copy.raw; cmp d.raw copy.raw; }
"#;

/// What ours does with it.
const OUR_CLIENT_TLS: &str = r#"
copy "$O img"
"$O" io $tls --image-opts $there -c 'write -P 7 1M 1M' -c 'write -z 2M 64k' -c 'discard 3M 1M' -c flush
"$O" io $tls --image-opts $there -c 'read -P 7 1M 1M' -c 'read -P 0 2M 64k' >said
no grep -q 'verification failed' said
no "$O" img info nbd+unix:///?socket=s.sock
no "$O" img info $tls --image-opts ${there/localhost/elsewhere}
"#;

/// (name, programs, pieces of the script)
const SCRIPTS: &[(&str, &[&str], &[&str])] = &[
    (
        "nbd: libnbd's tools and our server",
        &["nbdinfo", "nbdcopy"],
        &[
            OURS,
            "\nu='nbd+unix:///?socket=s.sock'; nbdinfo --json $u >info; grep -q base:allocation info
            nbdinfo --map $u; nbdcopy $u copy.raw; cmp d.raw copy.raw
            nbdcopy --connections=4 --requests=32 copy.raw $u; cmp d.raw copy.raw",
        ],
    ),
    (
        "nbd: libnbd's tools and our server, TLS",
        &["nbdinfo", "nbdcopy", "openssl"],
        &[
            CERTIFICATES,
            OURS_TLS,
            "\nu=\"nbds+unix://localhost/?socket=s.sock&tls-certificates=$PWD/tls\"
            nbdinfo --json \"$u\"; nbdcopy \"$u\" copy.raw; cmp d.raw copy.raw; nbdcopy copy.raw \"$u\"
            no nbdinfo nbd+unix:///?socket=s.sock",
        ],
    ),
    (
        "nbd: qemu-img and our server, TLS",
        &["qemu-img", "openssl"],
        &[
            CERTIFICATES,
            OURS_TLS,
            CLIENT_TLS,
            "copy qemu-img; no qemu-img info nbd+unix:///?socket=s.sock",
        ],
    ),
    (
        "nbd: our client and qemu-nbd, TLS",
        &["qemu-nbd", "openssl"],
        &[CERTIFICATES, QEMU_TLS, CLIENT_TLS, OUR_CLIENT_TLS],
    ),
    (
        "nbd: our client and nbdkit, TLS",
        &["nbdkit", "openssl"],
        &[CERTIFICATES, NBDKIT_TLS, CLIENT_TLS, OUR_CLIENT_TLS],
    ),
    (
        "nbd: our client and a server with errors",
        &["nbdkit"],
        &[
            "nbdkit -U s.sock -P pid --filter=error file d.raw error-pread-rate=100% error-file=$PWD/now
            u='nbd+unix:///?socket=s.sock'; touch now
            no \"$O\" img convert -f raw -O raw $u copy.raw 2>said; grep -q 'Input/output error' said
            rm now; \"$O\" img convert -f raw -O raw $u copy.raw; cmp d.raw copy.raw",
        ],
    ),
    (
        "nbd: our client and a server that is slow and tries again",
        &["nbdkit"],
        &[
            "nbdkit -U s.sock -P pid --filter=delay --filter=retry-request --filter=error file d.raw \
                rdelay=20ms error-pread-rate=10% retry-request-retries=50 retry-request-delay=1
            u='nbd+unix:///?socket=s.sock'; \"$O\" img convert -f raw -O raw $u copy.raw
            cmp d.raw copy.raw; \"$O\" img bench -q -f raw -d 16 -c 100 $u",
        ],
    ),
];

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = SCRIPTS
        .iter()
        .map(|&(name, tools, script)| {
            Test::new(name, 10, move || {
                for name in tools {
                    tool(name)?;
                }
                run(&folder()?, &script.concat())
            })
        })
        .collect();
    tests.push(Test::new("nbd: a hundred rude clients", 10, rude_clients));
    tests
}

fn folder() -> Result<Folder> {
    let work = Folder::new()?;
    let disk: Vec<u8> =
        (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    work.write("d.raw", disk)?;
    Ok(work)
}

fn script(work: &Folder, line: &str) -> Result<Output> {
    let mut bash = Command::new(tool("bash")?);
    let end = "trap 'kill $(cat pid)' EXIT; no() { if \"$@\"; then return 1; fi; }; ";
    bash.env("O", orrery()?).args(["-ec", &format!("{end}{line}")]);
    work.spawn(bash)?.wait(60)
}

fn run(work: &Folder, line: &str) -> Result<()> {
    script(work, line)?.success().map(drop)
}

/// They say nothing, or nonsense, or leave in the middle; one that behaves is served all the same.
fn rude_clients() -> Result<()> {
    let work = folder()?;
    let started = format!("{OURS}; touch ready; while [ ! -e over ]; do sleep 0.1; done");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| run(&work, &started));
        while !work.file("ready").exists() && !server.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let rude: Vec<_> = (0..100u32)
            .filter_map(|i| {
                let mut client = UnixStream::connect(work.file("s.sock")).ok()?;
                let said: &[u8] = match i % 5 {
                    0 => b"",
                    1 => b"GET / HTTP/1.1\r\n\r\n",
                    2 => &[0xff; 4096],
                    // The client's flags, and an option of 4 GiB.
                    3 => b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
                    _ => b"\0\0\0\x03IHAVEOPT\0\0\0\x06\0\0",
                };
                // It may have been shown the door already.
                let _ = client.write_all(said);
                (i % 2 == 0).then_some(client)
            })
            .collect();
        let polite = Folder::new().and_then(|other| {
            let socket = work.file("s.sock").to_string_lossy().into_owned();
            let line = format!(
                "trap - EXIT; \"$O\" img convert -f raw -O raw 'nbd+unix:///?socket={socket}' copy.raw"
            );
            run(&other, &line)?;
            Ok(std::fs::read(other.file("copy.raw"))? == std::fs::read(work.file("d.raw"))?)
        });
        drop(rude);
        let over = work.write("over", "");
        let server = server.join().expect("the thread of the server");
        over.and(polite).and_then(|same| {
            ensure!(same, "the copy is not the disk");
            server
        })
    })
}
