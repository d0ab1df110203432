//! Route to OS: name lookup, proxy, TLS and the clock.

use std::env;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::header;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use tokio::{net::lookup_host, time::timeout};

use crate::table::Row;

/// OS's `issued_at` and certificates bear a few seconds, but a clock that is further out confuses every log.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

pub(crate) async fn rows(client: &reqwest::Client, origin: &Url) -> Vec<Row> {
    let proxy = proxy_variable(origin);
    let lookup = name_lookup(origin, proxy.is_some()).await;
    let proxy = proxy.map_or("none".to_owned(), |variable| format!("from {variable}"));
    let mut rows = vec![lookup, Row::new("proxy", true, proxy)];
    // OS's landing page needs no token.
    let response = client.get(origin.clone()).send().await;
    rows.push(match &response {
        Ok(_) if origin.scheme() == "http" => Row::new("TLS", true, "not used with the fake Data Hub"),
        Ok(response) => Row::new("TLS", true, format!("connected, {:?}", response.version())),
        Err(error) if error.is_timeout() => Row::new("TLS", false, "no answer in time"),
        Err(_) => Row::new("TLS", false, "no connection: the row of the key has the cause"),
    });
    if let Ok(response) = response {
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        rows.push(clock(date, SystemTime::now()));
    }
    rows
}

async fn name_lookup(origin: &Url, has_proxy: bool) -> Row {
    let host = origin.host_str().unwrap_or_default();
    if host.parse::<IpAddr>().is_ok() {
        return Row::new("name lookup", true, format!("not needed: {host} is an address"));
    }
    let port = origin.port_or_known_default().unwrap_or_default();
    match timeout(Duration::from_secs(10), lookup_host((host, port))).await {
        Ok(Ok(addresses)) => Row::new("name lookup", true, format!("{host}: {} addresses", addresses.count())),
        Ok(Err(_)) | Err(_) if has_proxy => Row::new(
            "name lookup",
            true,
            format!("{host} is unknown here, which is normal behind a proxy"),
        ),
        Ok(Err(_)) => Row::new(
            "name lookup",
            false,
            format!("{host} is unknown: check the network and its DNS"),
        ),
        Err(_) => Row::new("name lookup", false, "no answer in 10 s: check the network and its DNS"),
    }
}

/// The environment variable whose proxy `reqwest` uses. Its value is not shown, because it may have a password in it.
fn proxy_variable(origin: &Url) -> Option<&'static str> {
    if origin.scheme() == "http" {
        // The client of the fake Data Hub has no proxy.
        return None;
    }
    Matcher::from_env().intercept(&origin.as_str().parse().ok()?)?;
    let variables = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let is_set = |name: &&str| env::var_os(name).is_some_and(|value| !value.is_empty());
    variables.into_iter().find(is_set)
}

fn clock(date: Option<&str>, now: SystemTime) -> Row {
    let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return Row::new("clock", false, "the answer has no usable Date");
    };
    let (difference, direction) = match now.duration_since(date) {
        Ok(difference) => (difference, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    // A Date has whole seconds, and took its time to arrive.
    if difference < Duration::from_secs(3) {
        return Row::new("clock", true, "agrees with Date");
    }
    let seconds = difference.as_secs();
    Row::new(
        "clock",
        difference <= MAX_CLOCK_DIFFERENCE,
        format!("{seconds} s {direction} Date"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_a_minute_out() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let sent = httpdate::parse_http_date(date).unwrap();
        let seconds = Duration::from_secs;
        for (now, is_good, result) in [
            (sent + seconds(2), true, "agrees with Date"),
            (sent - seconds(2), true, "agrees with Date"),
            (sent + seconds(60), true, "60 s ahead of Date"),
            (sent - seconds(61), false, "61 s behind Date"),
        ] {
            let row = clock(Some(date), now);
            assert_eq!((row.is_good, row.result.as_str()), (is_good, result));
        }
        assert!(!clock(None, sent).is_good && !clock(Some("yesterday"), sent).is_good);
    }
}
