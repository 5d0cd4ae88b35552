package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/sse"
)

var allCodes = []problem.Code{
	problem.CodeTenantIDRequired, problem.CodeEventTypeRequired, problem.CodePayloadRequired, problem.CodeTargetRequired, problem.CodeInvalidTarget,
	problem.CodeProfileRequired, problem.CodeConversationIDRequired, problem.CodeGroupIDRequired, problem.CodeConnectionIDRequired,
	problem.CodeInvalidTenantID, problem.CodeInvalidProfile, problem.CodeInvalidEventType, problem.CodeReservedType, problem.CodeInvalidEventID,
	problem.CodeInvalidCorrelationID, problem.CodeInvalidField, problem.CodeUnknownField, problem.CodePayloadTooLarge, problem.CodeMalformedJSON, problem.CodeBatchSize,
}

func TestEachFaultHasItsCode(t *testing.T) {
	with := func(change string) string {
		base := map[string]json.RawMessage{}
		json.Unmarshal([]byte(`{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`), &base)
		json.Unmarshal([]byte(change), &base)
		b, _ := json.Marshal(base)
		return string(b)
	}
	for change, want := range map[string]string{
		`{}`:                               "",
		`{"tenantId":""}`:                  "TenantIdRequired tenantId",
		`{"tenantId":"a b"}`:               "InvalidTenantId tenantId",
		`{"tenantId":".."}`:                "InvalidTenantId tenantId",
		`{"tenantId":5}`:                   "InvalidTenantId tenantId",
		`{"type":null}`:                    "EventTypeRequired type",
		`{"type":"a\nb"}`:                  "InvalidEventType type",
		`{"type":"hub.ready"}`:             "ReservedType type",
		`{"type":"presence.online"}`:       "ReservedType type",
		`{"type":"error"}`:                 "ReservedType type",
		`{"type":"errors"}`:                "",
		`{"payload":null}`:                 "PayloadRequired payload",
		`{"payload":""}`:                   "",
		`{"payload":false}`:                "",
		`{"target":null}`:                  "TargetRequired target",
		`{"target":{}}`:                    "InvalidTarget target.kind",
		`{"target":{"kind":"TENANT"}}`:     "",
		`{"target":{"kind":"everybody"}}`:  "InvalidTarget target.kind",
		`{"target":{"kind":"profile"}}`:    "ProfileRequired target.profiles",
		`{"target":{"kind":"group"}}`:      "GroupIdRequired target.groupId",
		`{"target":{"kind":"connection"}}`: "ConnectionIdRequired target.connectionId",
		`{"target":{"kind":"conversation","conversationId":""}}`:         "ConversationIdRequired target.conversationId",
		`{"target":{"kind":"conversation","conversationId":".."}}`:       "InvalidTarget target.conversationId",
		`{"target":{"kind":"tenant","groupId":"g"}}`:                     "InvalidTarget target.groupId",
		`{"target":{"kind":"profile","profiles":["a","b"]}}`:             "InvalidTarget target.profiles",
		`{"target":{"kind":"profile","profiles":["U:b"]}}`:               "InvalidProfile target.profiles[0]",
		`{"target":{"kind":"profile","profiles":[{"id":"x","name":1}]}}`: "UnknownField target.profiles[0].name",
		`{"target":{"kind":"profiles","profiles":["a",{"id":5}]}}`:       "InvalidProfile target.profiles[1].id",
		`{"target":{"kind":"profile","profiles":[{"type":"x"}]}}`:        "InvalidProfile target.profiles[0]",
		`{"target":{"kind":"tenant","exclude":{"profiles":["x:"]}}}`:     "InvalidProfile target.exclude.profiles[0]",
		`{"target":{"kind":"tenant","exclude":{"connectionIds":[5]}}}`:   "InvalidTarget target.exclude.connectionIds[0]",
		`{"id":"a b"}`:          "InvalidEventId id",
		`{"correlationId":"é"}`: "InvalidCorrelationId correlationId",
		`{"ephemeral":"yes"}`:   "InvalidField ephemeral",
		`{"target":{"kind":"profile","profiles":["a"]},"deadline":"1h1.5m2s"}`:    "",
		`{"target":{"kind":"profile","profiles":["a"]},"deadline":"2000000us"}`:   "InvalidField deadline",
		`{"target":{"kind":"profile","profiles":["a"]},"deadline":"2000000µs"}`:   "InvalidField deadline", // micro
		`{"target":{"kind":"profile","profiles":["a"]},"deadline":"2000000μs"}`:   "InvalidField deadline", // mu
		`{"target":{"kind":"profile","profiles":["a"]},"deadline":"1s9000000ns"}`: "InvalidField deadline",
		`{"taget":1}`:               "UnknownField taget",
		`{"TENANTID":"x"}`:          "UnknownField TENANTID",
		`{"payload":"0123456789a"}`: "PayloadTooLarge payload",
		`{"timestamp":["any"]}`:     "",
	} {
		t.Run(change, func(t *testing.T) {
			is := is.New(t)
			_, err := DecodeEvent([]byte(with(change)), nil, 12)
			got := ""
			for _, e := range problem.Fields(err) {
				got += string(e.Code) + " " + e.Field
			}
			is.Equal(got, want)
		})
	}
}

func TestAllFaultsAtOnceWithTheirIndex(t *testing.T) {
	is := is.New(t)
	_, err := DecodeBatch([]byte(`{"events":[{"tenantId":"a","type":"t","payload":1,"target":{"kind":"tenant"}},{"taget":1},{"tenantId":"a","type":"hub.x","payload":1,"target":{"kind":"tenant"}}]}`), 0)
	var got []string
	for _, e := range problem.Fields(err) {
		got = append(got, string(rune('0'+e.Index))+" "+string(e.Code))
	}
	is.Equal(got, []string{"1 UnknownField", "1 TenantIdRequired", "1 EventTypeRequired", "1 PayloadRequired", "1 TargetRequired", "2 ReservedType"})
}

// FuzzDecodeEvent: no panic, codes of the closed set only, and what is accepted
// goes over the wire and comes back with nothing forged.
func FuzzDecodeEvent(f *testing.F) {
	f.Add([]byte(`{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`))
	f.Add([]byte(`{"id":"x","tenantId":"acme","type":"a.b","payload":{"a":"\n\u2028"},"target":{"kind":"profiles","profiles":["a:b:c",{"type":"t","id":"/"}]}}`))
	f.Add([]byte(`{"id":"x\r\ny","tenantId":"acme","type":"a\u0000","payload":1,"target":{"kind":"conversation","conversationId":"\u0085"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := DecodeEvent(body, nil, 0)
		if err != nil {
			faults := problem.Fields(err)
			if len(faults) == 0 {
				t.Fatalf("%v has no field", err)
			}
			for _, fault := range faults {
				if !slices.Contains(allCodes, fault.Code) {
					t.Fatalf("unknown code %q", fault.Code)
				}
			}
			return
		}
		data := e.AppendEnvelope(nil)
		if !json.Valid(data) || strings.ContainsAny(string(data), "\r\n") {
			t.Fatalf("envelope %q", data)
		}
		frame, err := sse.AppendEvent(nil, e.ID, e.Type, data)
		if err != nil {
			t.Fatal(err)
		}
		r := sse.NewReader(strings.NewReader(string(frame)))
		if got, err := r.Next(); err != nil || got.ID != e.ID || got.Type != e.Type || got.Data != string(data) {
			t.Fatalf("%q came back as %+v, %v", frame, got, err)
		}
	})
}

func TestTraceParent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	const ids = "-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for text, want := range map[string]string{
		good:                                  good,
		strings.TrimSuffix(good, "01") + "ff": strings.TrimSuffix(good, "01") + "ff", // flags that nobody knows yet
		"cc" + ids:                            good,                                  // of a later version what is known
		"cc" + ids + "-what-follows":          good,
		"":                                    "", "00": "", good + "-": "", good + "-00": "", good + " ": "", " " + good: "",
		"cc" + ids + ".": "", "cc" + ids + "0": "", "ff" + ids: "", "FF" + ids: "", "0x" + ids: "",
		strings.ToUpper(good): "", strings.Replace(good, "a", "g", 1): "", strings.Replace(good, "-b", "_b", 1): "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": "",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": "",
		"00-0af7651916cd43dd8448eb211c80319-b7ad6b71692033311-01": "",
	} {
		t.Run(text, func(t *testing.T) {
			is := is.New(t)
			got, ok := event.ParseTraceParent(text)
			is.Equal(got, want)
			is.Equal(ok, want != "")
			body := `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"},"traceparent":"` + text + `"}`
			e, err := DecodeEvent([]byte(body), nil, 0)
			if want == "" && text != "" {
				faults := problem.Fields(err)
				is.Equal(len(faults), 1)
				is.Equal(faults[0].Code, problem.CodeInvalidField)
				is.Equal(faults[0].Field, "traceparent")
				return
			}
			is.NoErr(err)
			is.Equal(e.TraceParent, want)
			stored, err := event.DecodeStored(e.AppendWhole(nil)) // what other hubs and the history have
			is.NoErr(err)
			is.Equal(stored.TraceParent, want)
			is.Equal(strings.Contains(string(e.AppendEnvelope(nil)), "traceparent"), want != "")
		})
	}
}
