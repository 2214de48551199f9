use proptest::prelude::*;

use super::{super::script::Step, *};

fn ask(id: Option<&str>) -> Client {
    let mut client = Client::new();
    let request = id.map_or_else(Request::new, |id| Request::with_id(id).unwrap());
    let _ = client.send(request);
    client
}

fn outcomes(bytes: &str) -> String {
    let mut client = ask(None);
    client.receive(format!("BEGIN\n{bytes}END\n").as_bytes());
    let response = client.poll().unwrap().expect("whole");
    let script = Script::new(vec![Step::new([0; 4]); 3]);
    // POWERON was line 1.
    let (done, failed) = response.outcomes(2, &script);
    let done = done.iter().map(|outcome| match outcome {
        Some(o) => format!(
            "{}{}{}",
            hex::encode(&o.body),
            o.sw,
            if o.expected { "" } else { "!" }
        ),
        None => "?".into(),
    });
    format!("{} {failed:?}", done.collect::<Vec<_>>().join(" "))
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut client = ask(Some("q"));
        client.receive(&bytes);
        let _ = client.poll();
    }

    #[test]
    fn any_status_text_does_not_panic(text in "[ -~]{0,60}", line in 0u16..6) {
        let _ = outcomes(&format!("+006 {line:03} {text}\n"));
        let _ = list::expand(&text);
    }
}
