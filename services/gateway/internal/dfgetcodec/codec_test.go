package dfgetcodec_test

import (
	"encoding/json"
	"io"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/dfgetcodec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEncodeWritesDfgetsJSON(t *testing.T) {
	for want, m := range map[string]proto.Message{
		`{"code":602}`:          &dfgetv1.PullPiecesResponse{Code: 602},
		`{"code":602,"msg":""}`: &dfgetv1.PullPiecesResponse{Code: 602, Msg: proto.String("")},
		`{"code":601,"data":[]}`: &dfgetv1.PullPiecesResponse{Code: 601,
			Data: &dfgetv1.PullPiecesResponse_Pieces{Pieces: &dfgetv1.PieceList{}}},
		`{"code":600,"data":{"md5":"\"\u003c\n\\é","fileLength":-9223372036854775808}}`: &dfgetv1.PullPiecesResponse{Code: 600,
			Data: &dfgetv1.PullPiecesResponse_Finish{Finish: &dfgetv1.FinishData{Md5: "\"<\n\\é", FileLength: -1 << 63}}},
		`{"IP":"","port":0,"cID":"","callSystem":"","duration":0.25,"fileLength":0,"success":true,"taskId":"","backsourceReason":""}`: &dfgetv1.ReportMetricsRequest{Duration: 0.25, Success: true},
		`{"code":0}`: &dfgetv1.HeartbeatResponse{},
	} {
		got, err := dfgetcodec.Encode(m)
		require.NoError(t, err)
		require.Equal(t, want+"\n", string(got))
	}
	registered, err := dfgetcodec.Encode(&dfgetv1.RegisterPeerRequest{Headers: []string{"a", "b"}, RootCas: [][]byte{[]byte("pem")}})
	require.NoError(t, err)
	require.Contains(t, string(registered), `"headers":["a","b"],`)
	require.Contains(t, string(registered), `"rootCAs":["cGVt"],`)
	_, err = dfgetcodec.Encode(&structpb.Struct{Fields: map[string]*structpb.Value{"a": nil}})
	require.Error(t, err, "maps are not supported")
}

func TestDecodeIgnoresCaseAndRejectsMalformedBodies(t *testing.T) {
	var m dfgetv1.RegisterPeerRequest
	require.NoError(t, dfgetcodec.Decode([]byte(` {"CID":"a","cid":"b","Port":15000,"FILELENGTH":9007199254740993,"x":{"y":[1,{"cid":"c"}]},"headers":null} `), &m))
	require.Equal(t, "b", m.GetCid(), "the last value is used")
	require.EqualValues(t, 9007199254740993, m.GetFileLength())
	require.ErrorIs(t, dfgetcodec.Decode([]byte(" \n"), &m), io.EOF)
	for _, cut := range []string{"{", `{"cid"`, `{"cid":`, `{"cid":"a`, `{"cid":"a",`, `{"headers":[`} {
		err := dfgetcodec.Decode([]byte(cut), &m)
		require.Error(t, err, cut)
		require.NotErrorIs(t, err, io.EOF, "a truncated body is not an empty one")
	}
	require.ErrorContains(t, dfgetcodec.Decode([]byte(`{"PORT":"1"}`), &m), "port: want a number")
	require.ErrorContains(t, dfgetcodec.Decode([]byte(`{"headers":["a",1]}`), &m), "headers: [1]: want a string")
	require.ErrorContains(t, dfgetcodec.Decode([]byte(`{}x`), &m), "after top-level value")
}

func TestMarshalerAllocatesANilMessage(t *testing.T) {
	var filter *dfgetv1.NetworkFilter
	require.NoError(t, dfgetcodec.NewJSON().Unmarshal([]byte(`{"URLS":["u"]}`), &filter))
	require.Equal(t, []string{"u"}, filter.GetUrls())
	require.Error(t, dfgetcodec.NewJSON().Unmarshal([]byte(`{}`), new(int)))
	require.Error(t, dfgetcodec.NewForm().Unmarshal([]byte(`port=x`), &dfgetv1.RegisterPeerRequest{}))
	_, err := dfgetcodec.NewJSON().Marshal(1)
	require.Error(t, err)
}

// decoderOf returns the decoder of a message's type.
func decoderOf(m proto.Message) *dfgetcodec.FieldDecoder {
	return dfgetcodec.NewFieldDecoder(m)
}

func TestQueryAndFormFillTheFieldsOfTheMessage(t *testing.T) {
	pulls := decoderOf(&dfgetv1.PullPiecesRequest{})
	for raw, want := range map[string]*dfgetv1.PullPiecesRequest{
		"":                              {},
		"srcCid=a+b;c%zz%4":             {SrcCid: "a+b;c%zz%4"},
		"SRCCID=%41%2f&srccid=second":   {SrcCid: "A/"},
		"%73rcCid=a=b&other=x&&=&range": {SrcCid: "a=b"},
		"srcCid=&srcCid=second":         {},
		"status=&result=501&status=701": {Result: 501, Status: 701},
		"status=0700&result=0501":       {Result: 501, Status: 700},
	} {
		got := &dfgetv1.PullPiecesRequest{}
		require.NoError(t, pulls.Query(raw, got))
		require.True(t, proto.Equal(want, got), "%s: %v", raw, got)
	}
	form := &dfgetv1.RegisterPeerRequest{}
	require.NoError(t, decoderOf(form).Form("headers=a+b&headers[]=c&cid=%2B&rootCAs=cGVtMQ&rootcas=_-8=&insecure=true&fileLength=-1", form))
	want := &dfgetv1.RegisterPeerRequest{
		Headers: []string{"a b", "c"}, Cid: "+", RootCas: [][]byte{[]byte("pem1"), {0xff, 0xef}}, Insecure: true, FileLength: -1,
	}
	require.True(t, proto.Equal(want, form), "%v", form)
}

func TestQueryWithAValueThatTheFieldCannotHaveIsAnError(t *testing.T) {
	for _, raw := range []string{"srcCid=%ff", "status=x", "status=99999999999", "result=1.5", "result=0x1F5", "result=5_01"} {
		require.Error(t, decoderOf(&dfgetv1.PullPiecesRequest{}).Query(raw, &dfgetv1.PullPiecesRequest{}), raw)
	}
	for _, raw := range []string{"insecure=perhaps", "rootCAs=%25%25", "fileLength=99999999999999999999"} {
		require.Error(t, decoderOf(&dfgetv1.RegisterPeerRequest{}).Form(raw, &dfgetv1.RegisterPeerRequest{}), raw)
	}
}

// FuzzDecode checks that a decoded message is unchanged after encoding and
// decoding.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"cid":"a","PORT":1,"headers":["x: y"],"rootCAs":["cGVt"],"fileLength":-1}`, `{"a":{"b":[[[]]]},"asSeed":true}`, `null`, `{`, "{\"cid\":\"\xff\"}", `{"port":1e3}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m dfgetv1.RegisterPeerRequest
		if err := dfgetcodec.Decode(data, &m); err != nil {
			if !utf8.ValidString(err.Error()) {
				t.Fatalf("error text is not UTF-8: %q", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted invalid JSON %q", data)
		}
		out, err := dfgetcodec.Encode(&m)
		if err != nil || !json.Valid(out) {
			t.Fatalf("%v: %s", err, out)
		}
		var again dfgetv1.RegisterPeerRequest
		if err := dfgetcodec.Decode(out, &again); err != nil || !proto.Equal(&m, &again) {
			t.Fatalf("%v\n%v\n%v", err, &m, &again)
		}
	})
}

// FuzzQuery checks that a query is either rejected or a message that can be encoded.
func FuzzQuery(f *testing.F) {
	f.Add("srcCid=a+b%zz%41;&DSTCID=x&status=700&&=&range=0-1")
	f.Add("srcCid=%ff")
	f.Fuzz(func(t *testing.T, raw string) {
		var m dfgetv1.PullPiecesRequest
		if err := decoderOf(&m).Query(raw, &m); err != nil {
			return
		}
		if _, err := proto.Marshal(&m); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
	})
}

// FuzzForm checks that a form is either rejected or a message that can be encoded.
func FuzzForm(f *testing.F) {
	f.Add([]byte("rawUrl=http%3A%2F%2Fh%2F&cid=c&ip=10.0.0.1&port=15000&headers=A%3A+b&rootCAs=cGVt&insecure=true"))
	f.Add([]byte(`{"cid":"a"}`))
	f.Add([]byte("port=&port=x&fileLength=99999999999999999999"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var m dfgetv1.RegisterPeerRequest
		if err := dfgetcodec.NewForm().Unmarshal(body, &m); err != nil {
			return
		}
		if _, err := proto.Marshal(&m); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
	})
}
