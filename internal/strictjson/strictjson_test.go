package strictjson_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/intramesh/mesh/internal/strictjson"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type inner struct {
	Name string `json:"name"`
	Skip string `json:"-"`
}

type all struct {
	inner
	S     string       `json:"s,omitempty"`
	B     bool         `json:"b"`
	I     int          `json:"i"`
	U8    uint8        `json:"u8"`
	U     uint64       `json:"u"`
	F     float64      `json:"f"`
	Raw   []byte       `json:"raw"`
	Many  [][]byte     `json:"many"`
	Words []string     `json:"words"`
	Addr  netip.Addr   `json:"addr"`
	Addrs []netip.Addr `json:"addrs"`
	Sub   struct {
		N int `json:"n"`
	} `json:"sub"`
	Untagged string
}

func TestUnmarshal(t *testing.T) {
	for _, text := range []string{
		`{}`, ` { "s" : "a\"\\\/\b\f\n\r\tA\u00e9\ud83d\ude00é" } `, `{"s":"\ud83d","words":["\ud83dA","\ude00"]}`,
		`{"b":true,"i":-12,"u8":255,"u":18446744073709551615,"f":1.5e3}`, `{"raw":"aGk=","many":["","aGk="],"words":[],"addr":"192.0.2.1","addrs":["::1"]}`,
		`{"sub":{"n":3},"name":"x","other":[1,{"a":null}],"-":"no","":"no"}`, `{"s":null,"words":null,"sub":null}`, `{"f":-0,"i":0}`, `null`,
	} {
		var got, want all
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if err := strictjson.Unmarshal([]byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		``: "ends", `{`: "ends", `{"s"`: "ends", `{"s":`: "ends", `{"s":"`: "ends", `tru`: "ends", `"\u12`: "ends", `[1,`: "ends", `-`: "ends",
		`{"s":1}`: "byte 5: the value does not fit a string", `{"i":"1"}`: "does not fit", `{"i":1.5}`: "does not fit", `{"u":-1}`: "does not fit",
		`{"u8":256}`: "does not fit", `{"b":"true"}`: "does not fit", `{"raw":"?"}`: "does not fit", `{"words":"x"}`: "does not fit", `[]`: "does not fit",
		`{"addr":"x"}`: "ParseAddr", `{"s":"a","s":"b"}`: "there twice", `{"x":1,"x":2}`: "there twice", `{} {}`: "something follows",
		"\"\xff\"": "UTF-8", `{"s":"` + "\n" + `"}`: "byte 6: invalid character '\\n'", `{s:1}`: "name in quotes", `{"s" 1}`: "colon", `[1 2]`: "comma", `[1,]`: "want a value",
		`{"s":"a",}`: "name in quotes", `01`: "something follows", `+1`: "want a value", `.5`: "want a value", `1.`: "ends", `1.x`: "want a digit", `1e`: "ends", `"\x"`: "want an escape",
		`"\u12g4"`: "hexadecimal", `nul!`: "byte 0: invalid character 'n'", strings.Repeat("[", 33): "nested too deep",
	} {
		var v all
		if err := strictjson.Unmarshal([]byte(text), &v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestNext(t *testing.T) {
	data := []byte(" {\"a\": [1]}\n[] ")
	n, off, err := strictjson.Next(data, 0, 2)
	if err != nil || n.Offset != 1 || n.Members[0].Offset != 2 || n.Field("a").Items[0].Offset != 8 || n.Field("b") != nil || n.Field("a").Field("x") != nil {
		t.Fatalf("%+v, %v", n, err)
	}
	if n, off, err = strictjson.Next(data, off, 2); err != nil || n.Kind != strictjson.List || n.Offset != 12 {
		t.Fatalf("%+v, %v", n, err)
	}
	if _, _, err = strictjson.Next(data, off, 2); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if _, _, err = strictjson.Next([]byte(`[[[]]]`), 0, 2); !errors.Is(err, strictjson.ErrDepth) {
		t.Error(err)
	}
}

// value makes of a tree what encoding/json makes of its text, unless a name is there twice.
func value(n *strictjson.Node) (v any, unique bool) {
	switch n.Kind {
	case strictjson.Bool:
		return n.Text == "true", true
	case strictjson.Number:
		return json.Number(n.Text), true
	case strictjson.String:
		return n.Text, true
	case strictjson.List:
		list := []any{}
		for _, item := range n.Items {
			v, ok := value(item)
			if !ok {
				return nil, false
			}
			list = append(list, v)
		}
		return list, true
	case strictjson.Object:
		m := map[string]any{}
		for _, f := range n.Members {
			v, ok := value(f.Value)
			if _, dup := m[f.Name]; dup || !ok {
				return nil, false
			}
			m[f.Name] = v
		}
		return m, true
	case strictjson.Null:
	}
	return nil, true
}

// What encoding/json reads is read here, and is the same; what it refuses is refused.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,-2.5e+3,"x\ud83d\ude00\ud83d\u00",true,false,null,{}],"b":""}`, `[[],{}]`, ` 0 `, `"\ud83d\ud83d\ude00"`, `{"a":1,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := strictjson.Parse(data)
		d := json.NewDecoder(strings.NewReader(string(data)))
		d.UseNumber()
		var want any
		werr := d.Decode(&want)
		if werr == nil {
			_, werr = d.Token()
			if errors.Is(werr, io.EOF) {
				werr = nil
			} else {
				werr = errors.New("more")
			}
		}
		switch {
		case err != nil && werr == nil && utf8.Valid(data) && !strings.Contains(err.Error(), "deep"):
			t.Fatalf("%q: %v", data, err)
		case err != nil:
			return
		case werr != nil:
			t.Fatalf("%q is read, but encoding/json says %v", data, werr)
		}
		if got, unique := value(n); unique && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, want %#v", data, got, want)
		}
	})
}
