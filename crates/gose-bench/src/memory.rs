//! Resident memory of a node with many elements and idle sessions.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    child::{Outcome, Server},
    load::Target,
};

/// Uses every element once, opens the sessions, has each say one word, leaves them idle, and reads VmRSS.
pub(crate) async fn measure(
    node: &Server,
    target: &Target,
    elements: usize,
    sessions: usize,
) -> Outcome<Value> {
    let before = node.resident()?;
    let mut first = target.connect().await?;
    for n in 0..elements {
        ask(
            &mut first,
            &format!("BEGIN\r\nPOWERON SE{n}\r\nSHUTDOWN SE{n}\r\nEND\r\n"),
        )
        .await?;
    }
    let used = node.resident()?;
    let mut idle = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        let mut stream = target.connect().await?;
        ask(&mut stream, "BEGIN\r\nGET-VERSION\r\nEND\r\n").await?;
        idle.push(stream);
    }
    let resident = node.resident()?;
    Ok(json!({
        "elements": elements,
        "sessions": idle.len(),
        "before_sessions_mib": before,
        "elements_used_mib": used,
        "resident_mib": resident,
        "kib_per_session": (resident - used) * 1024.0 / sessions as f64,
    }))
}

async fn ask<S: AsyncReadExt + AsyncWriteExt + Unpin>(
    stream: &mut S,
    request: &str,
) -> Outcome<()> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while !answer.ends_with(b"END\r\n") {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Err("the node closed a session".into());
        }
        answer.extend_from_slice(&buffer[..n]);
    }
    if answer.windows(2).any(|pair| pair == b"\n-") {
        return Err(format!("the node refused: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(())
}
