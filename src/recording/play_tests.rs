#![allow(clippy::unwrap_used)]

use super::*;

fn step(text: &'static str) -> Step {
    Step {
        wait: Duration::ZERO,
        bytes: Bytes::from_static(text.as_bytes()),
        after_ack: false,
    }
}

fn written(welcome: Welcome, steps: &[&'static str]) -> Vec<Bytes> {
    let mut steps: Vec<Step> = steps.iter().map(|text| step(text)).collect();
    welcome.answer(&mut steps);
    steps.into_iter().map(|step| step.bytes).collect()
}

#[test]
fn replies_come_twice_or_in_another_order_and_what_is_no_line_stays() {
    let cases = [
        (false, false, "+PONG\r\n+OK\r\n"),
        (true, false, "+PONG\r\n+PONG\r\n+OK\r\n+OK\r\n"),
        (false, true, "+OK\r\n+PONG\r\n"),
        (true, true, "+OK\r\n+OK\r\n+PONG\r\n+PONG\r\n"),
    ];
    for (repeats, reorders, wanted) in cases {
        let welcome = Welcome {
            repeats,
            reorders,
            ..Welcome::default()
        };
        let replies = welcome.replies(Bytes::from_static(b"+PONG\r\n+OK\r\n"));
        assert_eq!(replies, wanted.as_bytes());
        let bulk = Bytes::from_static(b"$4\r\na\nb\n\r\n");
        assert_eq!(welcome.replies(bulk.clone()), bulk);
    }
}

#[test]
fn the_answer_to_psync_comes_twice_or_after_what_follows_it() {
    let sync = ["\n", "+FULLRESYNC x 0\r\n", "$5\r\n", "REDIS"];
    let repeats = Welcome {
        repeats: true,
        ..Welcome::default()
    };
    assert_eq!(
        written(repeats, &sync),
        [sync[0], sync[1], sync[1], sync[2], sync[3]]
    );
    let reorders = Welcome {
        reorders: true,
        ..Welcome::default()
    };
    assert_eq!(
        written(reorders, &sync),
        [sync[0], sync[2], sync[1], sync[3]]
    );
    assert_eq!(written(reorders, &["+CONTINUE\r\n"]), ["+CONTINUE\r\n"]);
    assert_eq!(written(Welcome::default(), &sync), sync);
}
