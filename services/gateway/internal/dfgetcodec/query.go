package dfgetcodec

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Query parses the query of a request and returns the values of the fields of md
// under their JSON names. dfget does not URL-encode its queries, so "+" is a plus,
// a "%" that starts no escape sequence is a percent sign, and ";" is not a
// separator. Query ignores unknown names and empty values of fields that are not
// strings, and uses the first value of a repeated name. Text that is not UTF-8 is
// an error.
func Query(raw string, md protoreflect.MessageDescriptor) (url.Values, error) {
	return selectFields(raw, md, false)
}

// Form parses the body of a form. It differs from Query in that "+" is a space.
func Form(body string, md protoreflect.MessageDescriptor) (url.Values, error) {
	return selectFields(body, md, true)
}

// selectFields returns the values of the fields of md.
func selectFields(raw string, md protoreflect.MessageDescriptor, plusIsSpace bool) (url.Values, error) {
	values := make(url.Values)
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		fd := findField(md, strings.TrimSuffix(unescape(name, plusIsSpace), "[]"))
		if fd == nil || fd.Message() != nil || fd.IsMap() {
			continue
		}
		value = unescape(value, plusIsSpace)
		if !utf8.ValidString(value) {
			return nil, fmt.Errorf("%s: not UTF-8", fd.JSONName())
		}
		if value == "" && fd.Kind() != protoreflect.StringKind {
			continue
		}
		if fd.IsList() || !values.Has(fd.JSONName()) {
			values.Add(fd.JSONName(), value)
		}
	}
	return values, nil
}

// unescape replaces the valid escape sequences of s and leaves the invalid ones as
// they are.
func unescape(s string, plusIsSpace bool) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+' && plusIsSpace:
			b = append(b, ' ')
		case s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b = append(b, hexValue(s[i+1])<<4|hexValue(s[i+2]))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
