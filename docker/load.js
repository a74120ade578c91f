// The load test of docker-compose.yml: docker compose --profile load run --rm load
// Every request must be answered 200 by a provider that got the tenant's own credential, never the client's key.
import http from "k6/http";
import { check } from "k6";

const key = JSON.parse(open(__ENV.KEY_FILE)).key;

export const options = {
  scenarios: {
    steady: { executor: "constant-vus", vus: Number(__ENV.VUS || 64), duration: __ENV.DURATION || "30s" },
  },
  thresholds: { checks: ["rate==1"], http_req_duration: ["p(99)<250"] },
};

export default function () {
  const body = JSON.stringify({ model: "demo-small", messages: [{ role: "user", content: "hello" }] });
  const answer = http.post(`${__ENV.TARGET}/v1/chat/completions`, body, {
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
  });
  check(answer, {
    "is 200": (each) => each.status === 200,
    "has the tenant's credential": (each) => each.body.includes("demo-credential-of-"),
    "has not the client's key": (each) => !each.body.includes(key),
  });
}
