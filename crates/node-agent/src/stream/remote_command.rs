//! `v5.channel.k8s.io` towards the client, `v4.channel.k8s.io` over SPDY towards the runtime. Pure.
//!
//! A WebSocket message begins with the number of its channel; `255` and a number end a channel (KEP-4006). Over SPDY each
//! channel is a stream, and the runtime waits until all that it expects are there. The error stream carries a Status
//! once the command has ended, which both protocols have in the same form.

use bytes::{Bytes, BytesMut};

use super::spdy::{self, Opener};
use super::{Broken, Down, Up, websocket};

/// What the client calls it.
pub const CLIENT_PROTOCOL: &str = "v5.channel.k8s.io";
/// What the runtime calls it.
pub const RUNTIME_PROTOCOL: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Ends the channel whose number follows.
const CLOSE: u8 = 255;

/// What a client is told of a command whose end nobody saw.
const LOST: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the container runtime ended the connection before the command had ended","reason":"InternalError","code":500}"#;

/// Which channels there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; a terminal has none.
    pub stderr: bool,
    /// A terminal, which can change its size.
    pub tty: bool,
}

/// Both directions, and what each side is told first.
pub fn begin(channels: Channels) -> (Upward, Downward, Bytes, Bytes) {
    let names = [
        (ERROR, "error", true),
        (STDIN, "stdin", channels.stdin),
        (STDOUT, "stdout", channels.stdout),
        (STDERR, "stderr", channels.stderr),
        (RESIZE, "resize", channels.tty),
    ];
    let (mut opener, mut runtime) = (Opener::default(), BytesMut::new());
    let mut streams = [None; 5];
    for (index, (channel, name, _)) in names.into_iter().filter(|(_, _, there)| *there).enumerate() {
        let stream = 2 * index as u32 + 1;
        opener.open(stream, &[("streamtype", name)], &mut runtime);
        streams[usize::from(channel)] = Some(stream);
    }
    let [stdin, stdout, stderr, error, resize] = streams;
    // Clients wait for something on the first channel that they read.
    let lowest = match (channels.stdout, channels.stderr) {
        (true, _) => STDOUT,
        (_, true) => STDERR,
        _ => ERROR,
    };
    let mut client = BytesMut::new();
    websocket::message(&[&[lowest]], &mut client);
    let up = Upward { stdin, resize, message: Message::Start };
    let open = [(error, ERROR), (stdout, STDOUT), (stderr, STDERR)];
    let open = open.into_iter().filter_map(|(stream, channel)| Some((stream?, channel))).collect();
    let down = Downward { decoder: spdy::Decoder::default(), open, told: false };
    (up, down, client.freeze(), runtime.freeze())
}

/// Where a message is.
#[derive(Debug)]
enum Message {
    Start,
    Channel(u8),
    Close(Option<u8>),
}

/// What the client says.
#[derive(Debug)]
pub struct Upward {
    /// The stream, until it was ended.
    stdin: Option<u32>,
    resize: Option<u32>,
    message: Message,
}

impl Upward {
    /// The stream of a channel that a client may write to.
    fn stream(&mut self, channel: u8) -> Option<&mut Option<u32>> {
        match channel {
            STDIN => Some(&mut self.stdin),
            RESIZE => Some(&mut self.resize),
            _ => None,
        }
    }
}

impl Up for Upward {
    fn part(
        &mut self,
        first: bool,
        mut bytes: Bytes,
        last: bool,
        runtime: &mut BytesMut,
    ) -> Result<(), Broken> {
        if first {
            self.message = Message::Start;
        }
        if matches!(self.message, Message::Start) && !bytes.is_empty() {
            self.message = match bytes.split_to(1)[0] {
                CLOSE => Message::Close(None),
                channel => Message::Channel(channel),
            };
        }
        match &mut self.message {
            Message::Start => {}
            // As upstream: what is said on a channel that is not read goes nowhere.
            Message::Channel(channel) => {
                let channel = *channel;
                if let Some(Some(stream)) = self.stream(channel)
                    && !bytes.is_empty()
                {
                    spdy::data(*stream, &bytes, false, runtime);
                }
            }
            Message::Close(closed) => match (bytes.as_ref(), closed) {
                ([], _) => {}
                ([channel], closed @ None) => *closed = Some(*channel),
                _ => return Err(Broken("more than one channel after the signal that ends one")),
            },
        }
        match self.message {
            Message::Close(None) if last => Err(Broken("no channel after the signal that ends one")),
            Message::Close(Some(channel)) if last && channel > RESIZE => Err(Broken("the end of no channel")),
            Message::Close(Some(channel)) if last => {
                if let Some(stream) = self.stream(channel).and_then(Option::take) {
                    spdy::data(stream, &[], true, runtime);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What the runtime says.
#[derive(Debug)]
pub struct Downward {
    decoder: spdy::Decoder,
    /// Streams that may still say something, with their channels.
    open: Vec<(u32, u8)>,
    /// Whether the command's end was told.
    told: bool,
}

impl Down for Downward {
    fn bytes(
        &mut self,
        input: &mut BytesMut,
        client: &mut BytesMut,
        runtime: &mut BytesMut,
    ) -> Result<bool, Broken> {
        while let Some(event) = self.decoder.next(input)? {
            match event {
                spdy::Event::Data { stream, bytes, last } => {
                    let channel =
                        self.open.iter().find(|(open, _)| *open == stream).map(|(_, channel)| *channel);
                    if let Some(channel) = channel
                        && !bytes.is_empty()
                    {
                        self.told |= channel == ERROR;
                        websocket::message(&[&[channel], &bytes], client);
                    }
                    if last {
                        self.open.retain(|(open, _)| *open != stream);
                    }
                }
                spdy::Event::Reset(stream) => self.open.retain(|(open, _)| *open != stream),
                spdy::Event::Ping(id) => spdy::pong(id, runtime),
                spdy::Event::GoAway => return Ok(true),
            }
            if self.open.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn end(&mut self, client: &mut BytesMut) {
        if !self.told {
            websocket::message(&[&[ERROR], LOST.as_bytes()], client);
        }
        websocket::close(websocket::NORMAL, client);
    }
}

#[cfg(test)]
mod tests {
    use super::super::spdy::tests::{go_away, reset};
    use super::*;

    const ALL: Channels = Channels { stdin: true, stdout: true, stderr: true, tty: false };

    fn say(up: &mut Upward, message: &'static [u8]) -> Result<Vec<u8>, Broken> {
        let mut out = BytesMut::new();
        up.part(true, Bytes::from_static(message), true, &mut out)?;
        Ok(out.to_vec())
    }

    fn data(stream: u32, bytes: &[u8], last: bool) -> Vec<u8> {
        let mut out = BytesMut::new();
        spdy::data(stream, bytes, last, &mut out);
        out.to_vec()
    }

    #[test]
    fn standard_input_goes_up_and_ends_alone() {
        let (mut up, _, client, runtime) = begin(ALL);
        assert_eq!(client.as_ref(), [0x82, 1, STDOUT]);
        let streams = runtime.windows(10).filter(|at| *at == b"streamtype").count();
        assert_eq!(streams, 4);
        assert_eq!(say(&mut up, b"\0hello").unwrap(), data(3, b"hello", false));
        // A message in three frames is one message.
        let mut out = BytesMut::new();
        for (first, bytes, last) in [(true, &b"\0a"[..], false), (false, b"\xff", false), (false, b"", true)]
        {
            up.part(first, Bytes::from_static(bytes), last, &mut out).unwrap();
        }
        assert_eq!(out, [data(3, b"a", false), data(3, b"\xff", false)].concat());
        assert!(say(&mut up, b"\x07nobody").unwrap().is_empty());
        assert!(say(&mut up, b"").unwrap().is_empty());
        assert!(say(&mut up, b"\x04{}").unwrap().is_empty(), "no terminal");
        let mut out = BytesMut::new();
        up.part(true, Bytes::from_static(b"\xff"), false, &mut out).unwrap();
        up.part(false, Bytes::from_static(b"\0"), true, &mut out).unwrap();
        assert_eq!(out, data(3, b"", true));
        assert!(say(&mut up, b"\xff\0").unwrap().is_empty(), "it has ended");
        assert!(say(&mut up, b"\0more").unwrap().is_empty(), "it has ended");
    }

    #[test]
    fn broken_signals_are_refused() {
        for message in [&b"\xff"[..], b"\xff\0\0", b"\xff\x05"] {
            let (mut up, ..) = begin(ALL);
            assert!(say(&mut up, message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn output_and_status_come_down() {
        let (_, mut down, ..) = begin(ALL);
        let (mut client, mut runtime) = (BytesMut::new(), BytesMut::new());
        let mut input = BytesMut::new();
        for frame in
            [data(5, b"out", false), data(7, b"err", false), data(99, b"none", false), data(1, b"{}", false)]
        {
            input.extend_from_slice(&frame);
        }
        spdy::pong(2, &mut input);
        assert!(!down.bytes(&mut input, &mut client, &mut runtime).unwrap());
        assert_eq!(client.split().as_ref(), b"\x82\x04\x01out\x82\x04\x02err\x82\x03\x03{}");
        assert_eq!(runtime.len(), 12, "a ping is answered");
        for stream in [5, 7] {
            reset(stream, &mut input);
        }
        assert!(!down.bytes(&mut input, &mut client, &mut runtime).unwrap());
        input.extend_from_slice(&data(1, b"", true));
        assert!(down.bytes(&mut input, &mut client, &mut runtime).unwrap(), "all have ended");
        down.end(&mut client);
        assert_eq!(client.as_ref(), [0x88, 2, 3, 0xe8], "the end, and nothing else");
    }

    #[test]
    fn a_lost_command_is_no_success() {
        let (_, mut down, ..) = begin(ALL);
        let (mut input, mut client) = (BytesMut::new(), BytesMut::new());
        go_away(&mut input);
        assert!(down.bytes(&mut input, &mut client, &mut BytesMut::new()).unwrap());
        down.end(&mut client);
        assert!(client.windows(13).any(|at| at == b"InternalError"), "{client:?}");
    }

    #[test]
    fn a_terminal_can_be_resized() {
        let (mut up, _, client, _) = begin(Channels { stdin: true, tty: true, ..Channels::default() });
        assert_eq!(client.as_ref(), [0x82, 1, ERROR]);
        assert_eq!(say(&mut up, b"\x04{\"Width\":1}").unwrap(), data(5, b"{\"Width\":1}", false));
    }
}
