/* Drives QuickJS through a fixed mix of work: `quickjs SIZE` runs quickjs.js's rounds SIZE times.
 * The same argument prints the same text everywhere. */
#include <quickjs.h>

#include <stdio.h>
#include <stdlib.h>

static const char program[] = {
#embed "quickjs.js"
    , 0};

static JSValue print(JSContext *context, JSValueConst self, int count, JSValueConst *values) {
    (void)self;
    for (int i = 0; i < count; i++) {
        const char *text = JS_ToCString(context, values[i]);
        if (!text)
            return JS_EXCEPTION;
        printf(i ? " %s" : "%s", text);
        JS_FreeCString(context, text);
    }
    printf("\n");
    fflush(stdout);
    return JS_UNDEFINED;
}

static int fail(JSContext *context) {
    JSValue exception = JS_GetException(context);
    const char *text = JS_ToCString(context, exception);
    printf("failed: %s\n", text ? text : "an exception without a text");
    return 1;
}

int main(int argc, char **argv) {
    long size = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
    if (size < 1 || size > 100000) {
        printf("usage: quickjs SIZE; SIZE is 1 to 100000\n");
        return 2;
    }
    JSRuntime *runtime = JS_NewRuntime();
    JSContext *context = runtime ? JS_NewContext(runtime) : NULL;
    if (!context) {
        printf("failed: no memory\n");
        return 1;
    }
    JSValue global = JS_GetGlobalObject(context);
    JS_SetPropertyStr(context, global, "print", JS_NewCFunction(context, print, "print", 1));
    JS_SetPropertyStr(context, global, "size", JS_NewInt32(context, (int)size));
    JS_FreeValue(context, global);
    JSValue result =
        JS_Eval(context, program, sizeof program - 1, "quickjs.js", JS_EVAL_TYPE_GLOBAL);
    if (JS_IsException(result))
        return fail(context);
    JS_FreeValue(context, result);
    /* Promises and async functions. */
    JSContext *of_job;
    int code;
    while ((code = JS_ExecutePendingJob(runtime, &of_job)) > 0) {
    }
    if (code < 0)
        return fail(of_job);
    JS_FreeContext(context);
    JS_FreeRuntime(runtime);
    return 0;
}
