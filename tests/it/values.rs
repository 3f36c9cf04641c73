//! Every type of value, without loss.

use nxt_simulator::Owner;
use nxt_testkit::object;
use serde_json::{Value, json};

use crate::support::app::TestApp;

fn number(text: &str) -> Value {
    Value::Number(text.parse().unwrap())
}

#[tokio::test]
async fn integers_decimals_texts_and_times_arrive_as_they_are() {
    let app = TestApp::start().await;
    for (number_of, key) in [i64::MIN, -1, 0, 9_007_199_254_740_993, i64::MAX].into_iter().enumerate() {
        let row = json!({ "queueChangeNo": key, "tableNo": -2_147_483_648_i64 + number_of as i64, "content": "x" });
        app.put("RetailQueueChange", row);
    }
    for (index, text) in ["", " ", "'", "\"", "\\", "æøå ÆØÅ", "😀", "a\u{301}", "\t\r\n", "{}", "\u{2028}", "null"]
        .into_iter()
        .enumerate()
    {
        let row = json!({ "languageNo": 47, "textType": -1, "textNo": index, "lineNo": 1, "text": text });
        app.put("Text", row);
    }
    for (index, decimal) in [
        "0",
        "-0.1",
        "12345678901234567890.123456789012345678",
        "0.00000000000000000001",
        "1e-7",
        "99999999999999999999999999999999999999",
    ]
    .into_iter()
    .enumerate()
    {
        let row = json!({ "productNo": format!("P {index}"), "salesPrice": number(decimal), "packing": -32_768, "discontinued": true });
        app.put("Product", row);
    }
    let row = json!({
        "taxCode": "3'", "percent": number("25.00"), "validFrom": "2024-02-29", "reference": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
        "changedTimestamp": null,
    });
    app.put("TaxCode", row);
    let row = json!({ "productNo": "x", "warehouseNo": -5, "countedAt": "2026-03-29T02:30:00.1234567" });
    app.put("StockBalance", row);
    app.assert_equal().await;
    let prices: Vec<String> =
        sqlx::query_scalar("select sales_price::text from business_nxt.product order by product_no")
            .fetch_all(&app.pool)
            .await
            .unwrap();
    assert_eq!(prices[2], "12345678901234567890.123456789012345678");
    let counted: String = sqlx::query_scalar("select counted_at::text from business_nxt.stock_balance")
        .fetch_one(&app.pool)
        .await
        .unwrap();
    assert_eq!(counted, "2026-03-29 02:30:00.123456");
    let types: Vec<(String, String)> = sqlx::query_as(
        "select column_name::text, data_type::text from information_schema.columns
          where table_schema = 'business_nxt' and table_name = 'tax_code' order by ordinal_position",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    let type_of = |name: &str| types.iter().find(|(own, _)| own == name).map(|(_, kind)| kind.as_str());
    assert_eq!(type_of("_company_no"), Some("bigint"));
    assert_eq!(type_of("percent"), Some("numeric"));
    assert_eq!(type_of("valid_from"), Some("date"));
    assert_eq!(type_of("reference"), Some("text"));
    assert_eq!(type_of("changed_timestamp"), Some("timestamp with time zone"));
    assert_eq!(type_of("changed_date_as_date"), None);
    assert_eq!(type_of("extensions"), None);
}

#[tokio::test]
async fn a_nul_character_becomes_the_replacement_character() {
    let app = TestApp::start().await;
    app.put("Order", json!({ "orderNo": 1, "name": "a\0b" }));
    app.settle().await;
    assert_eq!(app.mirrored("order").await[0]["name"], "a\u{fffd}b");
}

#[tokio::test]
async fn a_wide_table_is_mirrored_in_full() {
    let app = TestApp::start().await;
    for key in 1..=5 {
        let row = json!({ "capitalAssetNo": key, "wideValue4": number("1.5"), "wideValue2": format!("æ{key}"), "wideValue159": 20_260_101 });
        app.simulator.put(Owner::Company(2_000_002), "CapitalAsset", object(row)).unwrap();
    }
    app.assert_equal().await;
    assert!(app.mirrored("capital_asset").await[0].len() > 160);
}

#[tokio::test]
async fn local_times_of_the_source_become_utc() {
    let app = TestApp::builder().set("NXT_SOURCE_TIMEZONE", "Europe/Oslo").start().await;
    app.simulator.set_knobs(|knobs| knobs.old_payload = true);
    let row = json!({ "orderNo": 1, "changedTimestamp": "2026-07-01T12:00:00.0000000" });
    app.put("Order", row);
    app.settle().await;
    assert_eq!(app.mirrored("order").await[0]["_changed_at"], "2026-07-01T10:00:00+00:00");
}
