//! NBD, the network block device protocol: a server for nodes and a client that is a node.
//!
//! Reference: the protocol's own document, doc/proto.md of the NetworkBlockDevice project. Fixed
//! newstyle negotiation, structured replies, extended headers, metadata contexts. Connections
//! come from the host ([`crate::host::HostNet`]); nothing here knows a socket.

mod client;
mod export;
mod negotiate;
mod proto;
mod server;
mod transmit;

pub(crate) use client::NbdClient;
pub use client::{ExportInfo, Tls, list};
pub use export::{Export, ExportOptions};
pub use server::{Limits, NbdServer};

#[cfg(test)]
mod tests {
    use super::proto::*;
    use super::*;
    use crate::graph::{BlockGraph, Node};
    use crate::host::{Address, ByteStream, HostNet, HostTls, Listener, MemFile, pipe};
    use crate::img;
    use crate::sync::{Notify, lock};
    use crate::{BlockError, IoBuf, NodeOptions, Op};
    use serde_json::json;
    use std::sync::{Arc, Mutex};

    /// Connects to a server in the same program.
    struct Loopback(Mutex<Option<NbdServer>>);

    impl HostNet for Loopback {
        fn connect(&self, _: &Address) -> Op<Arc<dyn ByteStream>> {
            let (ours, theirs) = pipe();
            match &*lock(&self.0) {
                Some(server) => server.accept(theirs),
                None => return Op::err(BlockError::Host("connection refused".into())),
            }
            Op::ok(ours)
        }
        fn listen(&self, _: &Address) -> Op<Arc<dyn Listener>> {
            Op::err(BlockError::Host("not here".into()))
        }
        fn tls(
            &self,
            _: &str,
            properties: &serde_json::Map<String, serde_json::Value>,
        ) -> crate::Result<Arc<dyn HostTls>> {
            Ok(Arc::new(Cloak { server: properties["endpoint"] == "server" }))
        }
    }

    /// Encryption that anybody can break: every bit is turned.
    struct Cloak {
        server: bool,
    }

    impl HostTls for Cloak {
        fn serves(&self) -> bool {
            self.server
        }
        fn accept(&self, stream: Arc<dyn ByteStream>) -> Op<Arc<dyn ByteStream>> {
            Op::ok(Arc::new(Cloaked(stream)))
        }
        fn connect(&self, stream: Arc<dyn ByteStream>, name: &str) -> Op<Arc<dyn ByteStream>> {
            match name {
                "here" => Op::ok(Arc::new(Cloaked(stream))),
                _ => Op::err(BlockError::Host("it is somebody else".into())),
            }
        }
    }

    struct Cloaked(Arc<dyn ByteStream>);

    fn turned(mut buf: IoBuf) -> IoBuf {
        buf.iter_mut().for_each(|byte| *byte = !*byte);
        buf
    }

    impl ByteStream for Cloaked {
        fn recv(&self, buf: IoBuf) -> Op<IoBuf> {
            let below = self.0.clone();
            Op::pending(async move { below.recv(buf).await.map(turned) })
        }
        fn send(&self, bufs: Vec<IoBuf>) -> Op<Vec<IoBuf>> {
            let below = self.0.clone();
            Op::pending(async move {
                let sent = below.send(bufs.into_iter().map(turned).collect()).await?;
                Ok(sent.into_iter().map(turned).collect())
            })
        }
        fn shutdown(&self) {
            self.0.shutdown();
        }
    }

    struct Bench {
        graph: BlockGraph,
        server: NbdServer,
        net: Arc<Loopback>,
    }

    fn bench(options: ExportOptions, len: u64) -> (Bench, Arc<Node>) {
        let graph = BlockGraph::new();
        let net = Arc::new(Loopback(Mutex::default()));
        graph.context().set_net(net.clone());
        let server = NbdServer::new(&graph, Limits::default());
        *lock(&net.0) = Some(server.clone());
        let disk = graph.open_file(Some("disk"), "", Arc::new(MemFile::with_len(len))).unwrap();
        server.add(Export::new(&graph, &disk, options).unwrap()).unwrap();
        (Bench { graph, server, net }, disk)
    }

    fn open(bench: &Bench, more: serde_json::Value) -> crate::Result<Arc<Node>> {
        let mut options = json!({
            "driver": "nbd", "export": "x",
            "server": {"type": "inet", "host": "here", "port": "1"},
        });
        for (key, value) in more.as_object().unwrap() {
            options[key] = value.clone();
        }
        let options = NodeOptions::from_value(options)?;
        let exec = bench.graph.executor().clone();
        exec.run_in_place(bench.graph.open_options(&options)).expect("nothing waits")
    }

    fn writable() -> ExportOptions {
        ExportOptions { name: "x".into(), writable: true, ..ExportOptions::default() }
    }

    #[test]
    fn client_and_server_move_data_zeroes_and_status() {
        let (bench, disk) = bench(writable(), 8 << 20);
        let far = open(&bench, json!({"discard": "unmap"})).unwrap();
        assert_eq!((far.len(), far.read_only()), (8 << 20, false));
        let work = async {
            far.write(1_000_001, vec![7; 3_000_000].into()).await?;
            far.write_zeroes(2 << 20, 65536, true).await?;
            far.flush().await?;
            let here = disk.read(0, IoBuf::zeroed(8 << 20)).await?;
            let there = far.read(0, IoBuf::zeroed(8 << 20)).await?;
            assert!(here == there && here[1_000_001] == 7 && here[2 << 20] == 0);
            let (status, _) = far.status_above(None, 0, 8 << 20).await?;
            assert!(status.zero && status.len <= 1_000_001);
            assert_eq!(img::compare(&far, &disk).await?, None);
            far.discard(0, 8 << 20).await?;
            assert_eq!(disk.read(1_000_001, IoBuf::zeroed(1)).await?[0], 0);
            Ok::<_, BlockError>(())
        };
        bench.graph.executor().run_in_place(work).unwrap().unwrap();
        assert_eq!(bench.server.connections(), 1);
        drop(far);
        bench.graph.poll();
        assert_eq!(bench.server.connections(), 0, "the client said goodbye");
    }

    #[test]
    fn a_read_only_export_refuses_and_an_unknown_one_is_not_found() {
        let (bench, _disk) = bench(ExportOptions { name: "x".into(), ..Default::default() }, 4096);
        assert!(open(&bench, json!({})).is_err(), "it cannot be written");
        let far = open(&bench, json!({"read-only": true})).unwrap();
        let write = bench.graph.executor().run_in_place(far.write(0, vec![1].into()));
        assert_eq!(write, Some(Err(BlockError::ReadOnly)));
        let missing = open(&bench, json!({"export": "y", "read-only": true})).err().unwrap();
        assert!(missing.to_string().contains("not available"), "{missing}");
    }

    #[test]
    fn a_dirty_bitmap_is_seen_through_its_context() {
        let graph = BlockGraph::new();
        let disk = graph.open_file(Some("d"), "", Arc::new(MemFile::with_len(1 << 20))).unwrap();
        let bitmap = crate::bitmap::DirtyBitmap::new(Some("b"), 1 << 20, 65536).unwrap();
        disk.add_bitmap(bitmap.clone()).unwrap();
        graph.executor().run_in_place(disk.write(200_000, vec![1; 10].into())).unwrap().unwrap();
        let net = Arc::new(Loopback(Mutex::default()));
        graph.context().set_net(net.clone());
        let server = NbdServer::new(&graph, Limits::default());
        *lock(&net.0) = Some(server.clone());
        let options = ExportOptions { bitmaps: vec![(None, "b".into())], ..writable() };
        server.add(Export::new(&graph, &disk, options).unwrap()).unwrap();
        assert!(bitmap.info().busy);
        let bench = Bench { graph, server, net };
        let more = json!({"x-dirty-bitmap": "qemu:dirty-bitmap:b"});
        let far = open(&bench, more).unwrap();
        let work = async {
            // The flag "dirty" is in the place of "hole".
            let first = far.status(0, 1 << 20).await?;
            let second = far.status(196_608, 1 << 20).await?;
            Ok::<_, BlockError>(((first.len, first.data), (second.len, second.data)))
        };
        let seen = bench.graph.executor().run_in_place(work).unwrap().unwrap();
        assert_eq!(seen, ((196_608, true), (65536, false)));
        drop(bench.server.remove("x", true));
        drop(far);
        bench.graph.poll();
        assert!(!bitmap.info().busy);
    }

    #[test]
    fn a_client_connects_again_when_it_may() {
        let (bench, _disk) = bench(writable(), 1 << 20);
        let once = open(&bench, json!({})).unwrap();
        let again = open(&bench, json!({"reconnect-delay": 10})).unwrap();
        bench.server.export("x").unwrap().disconnect();
        bench.graph.poll();
        let exec = bench.graph.executor();
        assert!(exec.run_in_place(once.read(0, IoBuf::zeroed(4))).unwrap().is_err());
        assert!(exec.run_in_place(again.write(0, vec![5; 4].into())).unwrap().is_ok());
        assert_eq!(
            &exec.run_in_place(again.read(0, IoBuf::zeroed(4))).unwrap().unwrap()[..],
            [5; 4]
        );
        *lock(&bench.net.0) = None;
        bench.server.stop();
        bench.graph.poll();
        assert!(exec.run_in_place(again.read(0, IoBuf::zeroed(4))).unwrap().is_err());
    }

    #[test]
    fn a_server_with_credentials_shows_nothing_before_the_connection_is_encrypted() {
        let (bench, _disk) = bench(writable(), 1 << 20);
        for end in ["server", "client"] {
            let object = format!("tls-creds-x509,id={end},dir=none,endpoint={end}");
            bench.graph.add_object_argument(&object).unwrap();
        }
        assert!(bench.graph.tls("client", true).is_err(), "that is the other end");
        assert!(bench.graph.tls("nobody", true).is_err());
        let plain = open(&bench, json!({"tls-creds": "client"})).err().unwrap();
        assert!(plain.to_string().contains("TLS not configured"), "{plain}");
        bench.server.set_tls(bench.graph.tls("server", true).unwrap());
        let open_text = open(&bench, json!({})).err().unwrap().to_string();
        assert!(open_text.contains("requires TLS"), "{open_text}");
        let other = json!({"tls-creds": "client", "tls-hostname": "elsewhere"});
        assert!(open(&bench, other).is_err(), "the server is not who it should be");
        let far = open(&bench, json!({"tls-creds": "client"})).unwrap();
        let exec = bench.graph.executor().clone();
        let work = async {
            far.write(4096, vec![7; 4096].into()).await?;
            far.flush().await?;
            far.read(4000, IoBuf::zeroed(200)).await
        };
        let seen = exec.run_in_place(work).unwrap().unwrap();
        assert_eq!((seen[95], seen[96]), (0, 7));
        let (ours, theirs) = pipe();
        bench.server.accept(theirs);
        let client = bench.graph.tls("client", false).unwrap();
        let all = exec.run_in_place(list(&ours, Some(&(client, "here".into())))).unwrap().unwrap();
        assert_eq!(all.len(), 1);
    }

    /// A server that says something at once, and something when it is asked. Unless it has said all
    /// that it has to, or was asked, the connection is gone.
    struct Said {
        greeting: Mutex<Vec<u8>>,
        whole: bool,
        answer: Mutex<Option<Vec<u8>>>,
        asked: Arc<Notify>,
    }

    impl Said {
        fn take(&self, n: usize) -> Option<crate::Result<Vec<u8>>> {
            let mut left = lock(&self.greeting);
            if left.len() >= n {
                let rest = left.split_off(n);
                return Some(Ok(std::mem::replace(&mut *left, rest)));
            }
            let waits = self.whole && lock(&self.answer).is_some();
            (!waits).then(|| Err(BlockError::Host("the connection is gone".into())))
        }
    }

    struct Stream(Arc<Said>);

    impl ByteStream for Stream {
        fn recv(&self, mut buf: IoBuf) -> Op<IoBuf> {
            let said = self.0.clone();
            Op::pending(async move {
                let n = buf.len();
                let bytes = said.asked.until(|| said.take(n)).await?;
                buf.copy_from_slice(&bytes);
                Ok(buf)
            })
        }
        fn send(&self, bufs: Vec<IoBuf>) -> Op<Vec<IoBuf>> {
            if bufs[0].starts_with(&REQUEST.to_be_bytes()) {
                let answer = lock(&self.0.answer).take();
                lock(&self.0.greeting).extend(answer.into_iter().flatten());
                self.0.asked.notify();
            }
            Op::ok(bufs)
        }
        fn shutdown(&self) {}
    }

    struct Speech(Vec<u8>, usize);

    impl HostNet for Speech {
        fn connect(&self, _: &Address) -> Op<Arc<dyn ByteStream>> {
            let (greeting, answer) = self.0.split_at(self.1.min(self.0.len()));
            Op::ok(Arc::new(Stream(Arc::new(Said {
                greeting: Mutex::new(greeting.to_vec()),
                whole: greeting.len() == self.1,
                answer: Mutex::new(Some(answer.to_vec())),
                asked: Arc::default(),
            }))))
        }
        fn listen(&self, _: &Address) -> Op<Arc<dyn Listener>> {
            Op::err(BlockError::Cancelled)
        }
    }

    /// Opens what a server says, reads 512 bytes, and gives what came of it.
    fn read_from(said: Vec<u8>, export: &str) -> (crate::Result<u64>, crate::Result<u8>) {
        let graph = BlockGraph::new();
        // What comes before the reply is as long in both ways.
        graph.context().set_net(Arc::new(Speech(said, 152)));
        let options = json!({
            "driver": "nbd", "export": export,
            "server": {"type": "inet", "host": "here", "port": "1"},
        });
        let options = NodeOptions::from_value(options).unwrap();
        let exec = graph.executor().clone();
        match exec.run_in_place(graph.open_options(&options)).expect("nothing waits") {
            Err(error) => (Err(error.clone()), Err(error)),
            Ok(node) => {
                let read = exec.run_in_place(node.read(0, IoBuf::zeroed(512)));
                (Ok(node.len()), read.expect("nobody is forgotten").map(|buf| buf[511]))
            }
        }
    }

    #[test]
    fn servers_that_do_not_negotiate_are_understood_and_a_broken_one_is_an_error() {
        let reply = Pack::default().u32(SIMPLE_REPLY).u32(0).u64(1).bytes(&[7; 512]).0;
        let old = Pack::default().u64(MAGIC).u64(OLD_MAGIC).u64(1 << 20).u32(0).bytes(&[0; 124]);
        let old = old.bytes(&reply).0;
        let new = Pack::default().u64(MAGIC).u64(OPTION_MAGIC).u16(0);
        let new = new.u64(1 << 20).u16(0).bytes(&[0; 124]).bytes(&reply).0;
        assert_eq!(read_from(old.clone(), ""), (Ok(1 << 20), Ok(7)));
        assert_eq!(read_from(new.clone(), "x"), (Ok(1 << 20), Ok(7)));
        assert!(read_from(old.clone(), "x").0.is_err(), "it has no names");
        for (said, export) in [(old, ""), (new, "x")] {
            for cut in 0..said.len() {
                let (open, read) = read_from(said[..cut].to_vec(), export);
                let text = read.expect_err("there is too little").to_string();
                assert!(open.is_ok() || text.starts_with("Failed to receive"), "{cut}: {text}");
                assert!(open.is_err() || text.contains("is gone"), "{cut}: {text}");
            }
        }
    }

    #[test]
    fn a_disk_that_ends_within_a_sector_is_offered_up_to_the_end_of_it() {
        let (bench, disk) = bench(writable(), 1000);
        assert_eq!(bench.server.export("x").unwrap().len(), 1024);
        let far = open(&bench, json!({})).unwrap();
        let exec = bench.graph.executor().clone();
        let work = async {
            disk.write(0, vec![5; 1000].into()).await?;
            let all = far.read(0, IoBuf::zeroed(1024)).await?;
            assert_eq!((all[999], all[1000], all[1023]), (5, 0, 0));
            let (data, zeros) = (far.status(0, 1024).await?, far.status(1000, 24).await?);
            assert_eq!((data.len, data.zero, zeros.len, zeros.zero), (1000, false, 24, true));
            far.discard(512, 512).await?;
            assert_eq!(disk.len(), 1000);
            far.write(1020, vec![6; 4].into()).await?;
            assert_eq!(disk.len(), 1024);
            let end = far.read(990, IoBuf::zeroed(34)).await?;
            assert_eq!((end[10], end[30]), (0, 6));
            Ok::<_, BlockError>(())
        };
        exec.run_in_place(work).unwrap().unwrap();
    }

    #[test]
    fn an_export_in_sectors_says_so_and_has_no_parts_of_them() {
        let (bench, disk) = bench(ExportOptions { block: 512, ..writable() }, 3000);
        let far = open(&bench, json!({})).unwrap();
        let exec = bench.graph.executor().clone();
        exec.run_in_place(disk.write(2900, vec![5; 100].into())).unwrap().unwrap();
        let seen = exec.run_in_place(far.status(0, 3072)).unwrap().unwrap();
        assert!(seen.len.is_multiple_of(512), "{seen:?}");
        let (ours, theirs) = pipe();
        bench.server.accept(theirs);
        let all = exec.run_in_place(list(&ours, None)).unwrap().unwrap();
        assert_eq!((all[0].size, all[0].min_block), (3072, 512));
        let grown = exec.run_in_place(far.truncate(4096)).unwrap().unwrap_err();
        assert_eq!(grown.to_string(), "Cannot grow NBD nodes");
    }

    #[test]
    fn rude_clients_are_shown_the_door_and_nobody_else_minds() {
        let (bench, _disk) = bench(writable(), 1 << 20);
        let good = open(&bench, json!({})).unwrap();
        let exec = bench.graph.executor().clone();
        let option =
            |number: u32, len: u32| Pack::default().u32(1).u64(OPTION_MAGIC).u32(number).u32(len).0;
        let request = |command: u16, offset: u64, len: u32| {
            let go = Pack::default().u32(3).u64(OPTION_MAGIC).u32(option::EXPORT_NAME).string("x");
            go.u32(REQUEST).u16(0).u16(command).u64(1).u64(offset).u32(len).0
        };
        let lies = [
            vec![0xff; 64],
            option(option::LIST, 0xffff_ffff),
            option(99, 0xffff),
            option(option::GO, 6).into_iter().chain([0xff; 6]).collect(),
            request(command::READ, u64::MAX, 16),
            request(command::READ, 0, u32::MAX),
            request(command::WRITE, 0, u32::MAX),
            request(command::BLOCK_STATUS, 0, 16),
            request(77, 0, 16),
        ];
        for _ in 0..12 {
            for lie in &lies {
                let (ours, theirs) = pipe();
                bench.server.accept(theirs);
                exec.run_in_place(send(&*ours, lie.clone())).unwrap().unwrap();
                bench.graph.poll();
                ours.shutdown();
                bench.graph.poll();
            }
        }
        assert_eq!(bench.server.connections(), 1);
        assert!(exec.run_in_place(good.read(0, IoBuf::zeroed(512))).unwrap().is_ok());
    }
}
