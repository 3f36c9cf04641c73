//! A browser by the WebDriver protocol, as far as these tests need it.

use std::{path::Path, process::Stdio};

use nxt_testkit::{Scratch, Wait};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const WAIT: Wait = Wait::seconds(120).every_millis(100);
/// Where Debian puts them.
const PROGRAMS: [&str; 2] = ["/usr/bin/chromium", "/usr/bin/chromedriver"];

/// A browser with one window.
pub(super) struct Driver {
    http: Client,
    session: String,
    driver: Child,
    _profile: Scratch,
}

impl Driver {
    /// `None` where none is installed.
    pub(super) async fn start() -> Option<Self> {
        if !PROGRAMS.iter().all(|program| Path::new(program).exists()) {
            return None;
        }
        let mut driver = Command::new(PROGRAMS[1])
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("it is piped")).lines();
        let port = loop {
            let line = lines.next_line().await.expect("it can be read").expect("chromedriver says its port");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let profile = Scratch::new();
        let http = Client::new();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            "goog:chromeOptions": { "binary": PROGRAMS[0], "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
                "--disable-background-networking", "--disable-component-update", "--no-first-run",
                format!("--user-data-dir={}", profile.0.display()),
            ] },
        } } });
        let base = format!("http://127.0.0.1:{port}/session");
        let answer = http.post(&base).json(&wanted).send().await.expect("chromedriver answers");
        let answer: Value = answer.json().await.expect("JSON");
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("{answer}"));
        Some(Self { session: format!("{base}/{id}"), http, driver, _profile: profile })
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value, String> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.session));
        if method == Method::POST {
            request = request.json(&body);
        }
        let answer: Value = request.send().await.expect("chromedriver answers").json().await.expect("JSON");
        match answer["value"]["error"].as_str() {
            Some(_) => Err(answer["value"].to_string()),
            None => Ok(answer["value"].clone()),
        }
    }

    /// Opens a page, and waits until it is loaded.
    pub(super) async fn open(&self, address: &str) {
        self.ask(Method::POST, "/url", json!({ "url": address })).await.expect("the page opens");
    }

    pub(super) async fn address(&self) -> String {
        let address = self.ask(Method::GET, "/url", Value::Null).await.expect("it has an address");
        address.as_str().unwrap_or_default().to_owned()
    }

    /// Runs a script in the page.
    pub(super) async fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.ask(Method::POST, "/execute/sync", body).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until a script returns true. The page may change meanwhile.
    pub(super) async fn wait_for(&self, what: &str, script: &str) {
        let look = async || {
            let body = json!({ "script": script, "args": [] });
            match self.ask(Method::POST, "/execute/sync", body).await {
                Ok(Value::Bool(true)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        WAIT.until(what, look).await.unwrap_or_else(|late| panic!("{late}"));
    }

    /// Clicks as a person does: what is hidden or covered cannot be clicked.
    pub(super) async fn click(&self, selector: &str) {
        let body = json!({ "using": "css selector", "value": selector });
        let found =
            self.ask(Method::POST, "/element", body).await.unwrap_or_else(|error| panic!("{selector}: {error}"));
        let id = found.as_object().and_then(|found| found.values().next()?.as_str()).expect("an element has an id");
        let path = format!("/element/{id}/click");
        self.ask(Method::POST, &path, json!({})).await.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    pub(super) async fn resize(&self, width: u32, height: u32) {
        let body = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        } });
        self.ask(Method::POST, "/goog/cdp/execute", body).await.expect("the window has another size");
    }

    /// Has pages believe that the person prefers this colour scheme.
    pub(super) async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let body = json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } });
        self.ask(Method::POST, "/goog/cdp/execute", body).await.expect("the colours are others");
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.ask(Method::POST, "/se/log", json!({ "type": kind })).await.expect("the log can be read");
        log.as_array().cloned().unwrap_or_default()
    }

    /// What the console tells of errors and of breaches of the content security policy.
    pub(super) async fn console_errors(&self) -> Vec<String> {
        let log = self.log("browser").await;
        log.iter().filter(|entry| entry["level"] == "SEVERE").map(|entry| entry["message"].to_string()).collect()
    }

    /// The addresses of all requests so far that went over a network.
    pub(super) async fn requests(&self) -> Vec<String> {
        let log = self.log("performance").await;
        let messages = log.iter().filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok());
        let sent = messages.filter(|message| message["message"]["method"] == "Network.requestWillBeSent");
        let addresses = sent.filter_map(|sent| Some(sent["message"]["params"]["request"]["url"].as_str()?.to_owned()));
        addresses.filter(|address| address.starts_with("http")).collect()
    }

    pub(super) async fn stop(mut self) {
        let _ = self.ask(Method::DELETE, "", Value::Null).await;
        self.driver.kill().await.expect("chromedriver ends");
    }
}
