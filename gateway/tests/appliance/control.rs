//! The control socket from end to end: server, client and the tables, over a real socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use crate::fixed::Fixed;
use gateway::control::server::ControlServer;
use gateway::control::{Client, ControlSocket, What, serve};
use gateway::snapshot::{Sa, Snapshot};

struct Gateway {
    path: PathBuf,
    server: Option<ControlServer>,
    _directory: tempfile::TempDir,
}

impl Gateway {
    fn start(sas: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let fixed = Arc::new(Fixed { sas });
        let server = serve(ControlSocket::bind(&path).unwrap(), fixed.clone(), fixed).unwrap();
        Self { path, server: Some(server), _directory: directory }
    }

    /// What `spillway show` prints.
    fn show(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        self.run(&[&["show"], arguments].concat())
    }

    fn run(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
            .args(arguments)
            .arg("--socket")
            .arg(&self.path)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code())
    }

    fn table(&self, what: &str) -> String {
        let (out, err, code) = self.show(&[what]);
        assert_eq!((err.as_str(), code), ("", Some(0)));
        out
    }
}

#[test]
fn a_client_gets_the_rows_of_the_snapshot() {
    let gateway = Gateway::start(2);
    let mut client = Client::connect(&gateway.path).unwrap();
    let sas: Vec<Sa> = serde_json::from_value(client.show(What::Sas).unwrap()).unwrap();
    assert_eq!(sas, Fixed { sas: 2 }.sas());
    // The same connection again.
    let status = client.show(What::Status).unwrap();
    assert_eq!(status["name"], "pop1");
    let drops = client.show(What::Drops).unwrap();
    let icv_bad = drops.as_array().unwrap().iter().find(|row| row["reason"] == "icv_bad").unwrap();
    assert_eq!(icv_bad["packets"], 31);
    assert_eq!(drops.as_array().unwrap().len(), dataplane::drops::DropReason::ALL.len() + 1, "and IKE's");
}

#[test]
fn the_protocol_is_lines_of_json() {
    let gateway = Gateway::start(0);
    let mut stream = UnixStream::connect(&gateway.path).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |request: &str| {
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        lines.next().unwrap().unwrap()
    };
    assert_eq!(ask(r#"{"command":"show","what":"sas"}"#), r#"{"result":[]}"#);
    assert_eq!(
        ask(r#"{"command":"show","what":"routes"}"#),
        r#"{"result":[{"to":"0.0.0.0/0","port":"wan","via":"198.51.100.254","in_force":true},{"to":"0.0.0.0/0","port":"lte","via":null,"in_force":false}]}"#
    );
    assert!(ask(r#"{"command":"stop"}"#).starts_with(r#"{"error":"unknown variant `stop`"#));
    assert!(ask("nonsense").starts_with(r#"{"error":"#));
    assert_eq!(ask(r#"{"command":"show","what":"sas"}"#), r#"{"result":[]}"#, "goes on after an error");
}

#[test]
fn a_request_without_end_is_refused() {
    let gateway = Gateway::start(0);
    let mut stream = UnixStream::connect(&gateway.path).unwrap();
    stream.write_all(&vec![b'x'; 64 * 1024 + 1]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "{\"error\":\"a request is at most 65536 bytes long\"}\n");
}

#[test]
fn tables_show_what_an_operator_looks_for() {
    let gateway = Gateway::start(1);
    assert_eq!(
        gateway.table("status"),
        "Gateway  pop1, version 0.1.0\nUp       1h 2m 3s, process 42\nWorkers  1, crypto vaes\nPorts    1\n\
         Tunnels  1 up of 2\nSAs      1\n"
    );
    assert_eq!(
        gateway.table("tunnels"),
        "\
TUNNEL      STATE  LOCAL         REMOTE       IN  IN BYTES  IN DROPS  OUT  OUT BYTES  OUT DROPS
lab         up     198.51.100.1  203.0.113.9  10     1,000         3   20      2,000          0
branch/lan  down   -             -             7         0         0    0          0          0
"
    );
    assert_eq!(
        gateway.table("connections"),
        "\
CONNECTION  STATE        LOCAL              REMOTE            PEER                INNER     CHILDREN  TRIES    LAST TRY  LAST ERROR
branch      down         198.51.100.1       any               branch.example.net  -         lan down      3  1m 10s ago  peer says AUTHENTICATION_FAILED (1m 9s ago)
mobile      established  198.51.100.1:4500  203.0.113.9:1027  a.example.net       10.9.1.7  lan up        0           -  -
The peer of mobile gave us 10.8.0.1; name servers 10.1.0.53; behind it 10.1.0.0/16
"
    );
    assert_eq!(
        gateway.table("sas"),
        "\
TUNNEL  DIR  SPI       PROTOCOL        SUITE            LOCAL              REMOTE             PACKETS  BYTES  DROPS       SEQUENCE  AGE  EXPIRES
lab     in   00002001  esp/udp tunnel  aes128gcm16-esn  198.51.100.1:4500  203.0.113.9:31337       10  1,000      0  5,000,000,000   1m      59m
"
    );
    assert_eq!(
        gateway.table("policies"),
        "\
ACTION   TUNNEL  LOCAL        REMOTE       PROTOCOL  LOCAL PORTS  REMOTE PORTS
protect  lab     10.1.0.0/16  10.3.0.0/16  6         any          443
"
    );
    assert_eq!(
        gateway.table("ports"),
        "\
PORT  DEVICE       LINK  MAC                 MTU  ADDRESSES           RX  RX BYTES  RX LOST  TX  TX BYTES  TX LOST  FEATURES
wan   af_xdp eth0  up    02:00:00:00:00:01  1500  198.51.100.1/24  1,234         0        5   0        99        0  mode=copy
CONFLICT on wan: 198.51.100.1 is used by 02:00:00:00:00:09 too, seen 12s ago
"
    );
    assert_eq!(
        gateway.table("workers"),
        "\
WORKER  CORE     RX     TX  DROPS  MOST        BUSY POLLS  SLEEPS  FREE FRAMES    P50    P99   P99.9    MAX
     0     1  1,234  1,200     34  icv_bad 31       75.0%       2       16,000  900ns  4.2us  18.0us  2.0ms
"
    );
    assert_eq!(
        gateway.table("drops"),
        "REASON           PACKETS\nicv_bad               31\ndummy                  3\nike_unknown_spi        4\n"
    );
    assert_eq!(
        gateway.table("routes"),
        "\
TO         VIA             PORT  STATE
0.0.0.0/0  198.51.100.254  wan   in force
0.0.0.0/0  -               lte   standby
"
    );
    assert_eq!(gateway.table("neighbours"), "ADDRESS         PORT  MAC\n198.51.100.254  wan   unresolved\n");
}

#[test]
fn commands_are_carried_out_and_answered() {
    let gateway = Gateway::start(0);
    let done = |text: &str| (format!("{text}\n"), String::new(), Some(0));
    assert_eq!(gateway.run(&["initiate", "branch"]), done("Initiate branch -"));
    assert_eq!(gateway.run(&["terminate", "branch/lan"]), done("Terminate branch lan"));
    let refused = "spillway: connection `branch` is not up\n".to_owned();
    assert_eq!(gateway.run(&["rekey", "branch"]), (String::new(), refused, Some(1)));
}

#[test]
fn json_is_the_result_itself() {
    let gateway = Gateway::start(1);
    let (out, _, code) = gateway.show(&["sas", "--json"]);
    assert_eq!(code, Some(0));
    let sas: Vec<Sa> = serde_json::from_str(&out).unwrap();
    assert_eq!(sas, Fixed { sas: 1 }.sas());
}

#[test]
fn a_hundred_thousand_sas_are_shown() {
    let gateway = Gateway::start(100_000);
    let mut client = Client::connect(&gateway.path).unwrap();
    assert_eq!(client.show(What::Sas).unwrap().as_array().unwrap().len(), 100_000);
}

#[test]
fn without_a_gateway_the_error_says_so() {
    let mut gateway = Gateway::start(0);
    gateway.server.take();
    let (out, err, code) = gateway.show(&["status"]);
    assert_eq!((out.as_str(), code), ("", Some(1)));
    let path = gateway.path.display();
    assert_eq!(
        err,
        format!(
            "spillway: no gateway answers on {path} (is `spillway run` running?): No such file or directory (os error 2)\n"
        )
    );
}
